//! `--any-order`: follows a fill rule over texts, and tells in which order it is right, how sure, and at which thresholds.

use anyhow::Result;
use lacuna::likelihood::{Filled, Group, Orders, RANKS_MAX, TENTHS, Text, any_order};
use lacuna::samplers::FillRule;
use lacuna::{Attention, Model};
use serde_json::{Value, json};
use std::f64::consts::LN_2;

use super::super::Usage;
use super::super::progress::count;
use super::super::said;
use super::lined::Lined;
use super::many::{Watched, hear_interrupts, is_ended};
use super::picture;
use super::plan::{Named, Plan};
use super::tokens::{Prepared, Tokens};
use super::told::{table, told};
use super::{Args, Thresholds, ended, words};

/// Sums over the texts that were filled: by the rule, and by each threshold beside it.
pub(super) struct Followed {
    pub(super) rule: FillRule,
    pub(super) orders: Orders,
    pub(super) thresholds: Vec<(f64, Orders)>,
    bytes: Option<u64>,
}

/// The rule, and the thresholds beside it.
fn rules(args: &Args) -> (FillRule, Vec<f64>) {
    let usual = || Thresholds(vec![0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]);
    let Thresholds(thresholds) = args.order.thresholds.clone().unwrap_or_else(usual);
    (args.order.fill.unwrap_or_default(), thresholds)
}

/// The flags that a text's line depends on; nothing without --any-order.
pub(super) fn settings(args: &Args) -> Value {
    match args.order.any_order {
        true => json!({ "any_order": rules(args) }),
        false => Value::Null,
    }
}

/// Refuses models and masks that leave no order to choose.
pub(super) fn check(args: &Args, model: &Model, attention: Attention) -> Result<()> {
    if !model.is_block_diffusion() && !args.how.allow_mode_mismatch {
        let message = "--any-order: this checkpoint is autoregressive and writes from left to right alone; leave it out, or \
                       give --allow-mode-mismatch to see it fill in masks";
        return Err(Usage(message.into()).into());
    }
    if attention == Attention::Causal {
        let message = "--any-order: under causal attention there is no order to choose; give --attention block-causal";
        return Err(Usage(message.into()).into());
    }
    Ok(())
}

/// Follows the rule over all texts, and tells it.
pub(super) fn run(args: &Args, plan: &Plan<'_>, texts: &[Prepared]) -> Result<()> {
    let (rule, thresholds) = rules(args);
    let mut followed = Followed {
        rule,
        orders: Orders::default(),
        thresholds: thresholds.iter().map(|tau| (*tau, Orders::default())).collect(),
        bytes: Some(0),
    };
    if texts.len() > 1 || args.jsonl.is_some() {
        hear_interrupts()?;
    }
    let mut lines = Lined::open(args, plan, texts, &mut |line| followed.add_line(line))?;
    let done = follow(args, plan, texts, &mut followed, &mut lines)?;
    lines.finish()?;
    if followed.orders.all.tokens > 0 && (args.jsonl.is_none() || args.out.is_some()) {
        match args.json {
            true => out!("{}", followed.as_json(plan)),
            false => followed.print(words(lines.known - lines.failed, texts.len()))?,
        }
    }
    if let Some(path) = &args.order.plot {
        picture::draw(path, &followed)?;
        if !args.quiet {
            note!("{}", super::shown(path));
        }
    }
    ended(done, lines.known, texts.len(), args.out.as_deref());
    lines.failures(texts.len())
}

/// Follows the rule and the thresholds over the texts that have no line yet. Returns false where Ctrl-C ended it.
fn follow(
    args: &Args,
    plan: &Plan<'_>,
    texts: &[Prepared],
    followed: &mut Followed,
    lines: &mut Lined,
) -> Result<bool> {
    let first = lines.known;
    let left = || texts.iter().skip(first).flat_map(|text| &text.tokens);
    let ways = 1 + followed.thresholds.len() as u64;
    // A block takes as many passes as it has tokens, at most; thresholds take fewer.
    let most = |text: &Tokens| {
        let windows = plan.windows(text).unwrap_or_default();
        let each =
            windows.iter().map(|window| plan.passes(Named::LeftToRight, window).unwrap_or(0));
        each.map(|passes| (passes + 1) * ways).sum::<u64>()
    };
    let tokens: usize = left().map(|text| text.tokens.len()).sum();
    let what = format!("{} tokens, order of filling", count(tokens));
    let runs = left().map(most).sum();
    let watched = (!lines.are_seen()).then(|| Watched::new(plan, &what, texts.len(), runs));
    for (number, text) in texts.iter().enumerate().skip(first) {
        if let Some(watched) = &watched {
            watched.at(number);
        }
        let line = match &text.tokens {
            Err(reason) => Err(reason.clone()),
            Ok(text) => match one(args, plan, text, followed) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return Ok(false),
                Err(error) if texts.len() == 1 => return Err(error),
                Err(error) => Err(said(&error)),
            },
        };
        lines.append(number, line)?;
        if is_ended() {
            return Ok(number + 1 == texts.len());
        }
    }
    Ok(true)
}

/// Follows the rule and the thresholds over one text, and makes its line; `None` where Ctrl-C ended it.
fn one(
    args: &Args,
    plan: &Plan<'_>,
    text: &Tokens,
    followed: &mut Followed,
) -> Result<Option<Value>> {
    let seed = args.how.seed;
    let Some(filled) = over(plan, text, (followed.rule, seed))? else { return Ok(None) };
    let mut beside = Vec::new();
    for (tau, _) in &followed.thresholds {
        let rule = FillRule::Threshold { tau: *tau };
        let Some(filled) = over(plan, text, (rule, seed))? else { return Ok(None) };
        let mut orders = Orders::default();
        orders.add(&filled);
        let Orders { all, passes, .. } = orders;
        beside.push(json!({
            "threshold": tau, "tokens": all.tokens, "passes": passes, "right": all.right, "nats": all.nats,
        }));
    }
    // Nothing is added of a text that was given up.
    let mut own = Orders::default();
    own.add(&filled);
    let column =
        |value: &dyn Fn(&Filled) -> Value| -> Vec<Value> { filled.iter().map(value).collect() };
    let mut line = json!({
        "tokens": own.all.tokens,
        "bytes": text.bytes,
        "nats": own.all.nats,
        "nats_per_token": own.all.nats_per_token(),
        "accuracy": own.all.accuracy(),
        "tokens_per_pass": own.tokens_per_pass(),
        "rule": followed.rule.to_string(),
        "filled": {
            "position": column(&|one| one.position.into()),
            "block": column(&|one| one.block.into()),
            "of": column(&|one| one.of.into()),
            "pass": column(&|one| one.pass.into()),
            "rank": column(&|one| one.rank.into()),
            "candidate": column(&|one| one.candidate.into()),
            "confidence": column(&|one| one.confidence.into()),
            "token": column(&|one| one.token.into()),
            "nats": column(&|one| one.nats.into()),
        },
        "thresholds": beside,
    });
    followed.add_line(&line);
    if let Some(attention) = told(Named::Exact, plan.attention) {
        line["attention"] = attention.name().into();
    }
    if let Some(form) = &text.form {
        line["form"] = form.as_str().into();
    }
    Ok(Some(line))
}

/// Follows a rule over the windows of a text; positions and blocks count from the text's beginning.
fn over(plan: &Plan<'_>, text: &Tokens, rule: (FillRule, u64)) -> Result<Option<Vec<Filled>>> {
    let (mut all, mut blocks) = (Vec::new(), 0);
    for window in plan.windows(text)? {
        let documents = [window.read.len()];
        let read = Text {
            tokens: &text.tokens[window.read.clone()],
            eligible: &window.eligible,
            documents: &documents,
        };
        let scoring = plan.scoring(Named::LeftToRight, &window);
        let model = &plan.model.transformer;
        let Some(filled) = any_order(model, &read, &scoring, rule, &mut || !is_ended())? else {
            return Ok(None);
        };
        let before = blocks;
        for mut one in filled {
            one.position += window.read.start;
            one.block += before;
            blocks = blocks.max(one.block + 1);
            all.push(one);
        }
    }
    Ok(Some(all))
}

/// The tokens of a line, as they were filled.
fn filled_of(line: &Value) -> Vec<Filled> {
    let columns = &line["filled"];
    let number = |name: &str, at: usize| columns[name][at].as_f64().unwrap_or(f64::NAN);
    let whole = |name: &str, at: usize| columns[name][at].as_u64().unwrap_or(0) as usize;
    let one = |at: usize| Filled {
        position: whole("position", at),
        block: whole("block", at),
        pass: whole("pass", at),
        rank: whole("rank", at),
        of: whole("of", at).max(1),
        candidate: whole("candidate", at) as u32,
        confidence: number("confidence", at),
        token: whole("token", at) as u32,
        nats: number("nats", at),
    };
    (0..columns["position"].as_array().map_or(0, Vec::len)).map(one).collect()
}

impl Followed {
    /// Adds a text by its line, whether this run made it or an earlier one.
    fn add_line(&mut self, line: &Value) {
        self.orders.add(&filled_of(line));
        for (at, (_, orders)) in self.thresholds.iter_mut().enumerate() {
            let whole = |name: &str| line["thresholds"][at][name].as_u64().unwrap_or(0) as usize;
            orders.all.tokens += whole("tokens");
            orders.all.right += whole("right");
            orders.all.nats += line["thresholds"][at]["nats"].as_f64().unwrap_or(f64::NAN);
            orders.passes += whole("passes");
        }
        self.bytes = self.bytes.zip(line["bytes"].as_u64()).map(|(a, b)| a + b);
    }

    fn as_json(&self, plan: &Plan<'_>) -> Value {
        let group = |group: &Group| {
            json!({
                "tokens": group.tokens,
                "accuracy": group.accuracy(),
                "confidence": group.mean_confidence(),
                "nats_per_token": group.nats_per_token(),
            })
        };
        let groups = |groups: &[Group]| groups.iter().map(group).collect::<Vec<_>>();
        let all = &self.orders.all;
        let bits = self.bytes.filter(|bytes| *bytes > 0).map(|n| all.nats / LN_2 / n as f64);
        let thresholds = self.thresholds.iter().map(|(tau, orders)| {
            json!({
                "threshold": tau,
                "tokens_per_pass": orders.tokens_per_pass(),
                "accuracy": orders.all.accuracy(),
                "nats_per_token": orders.all.nats_per_token(),
            })
        });
        json!({
            "rule": self.rule.to_string(),
            "attention": plan.attention.name(),
            "tokens": all.tokens,
            "nats": all.nats,
            "nats_per_token": all.nats_per_token(),
            "bits_per_byte": bits,
            "accuracy": all.accuracy(),
            "tokens_per_pass": self.orders.tokens_per_pass(),
            "calibration_error": self.orders.calibration_error(),
            "by_rank": groups(&self.orders.by_rank),
            "by_tenth": groups(&self.orders.by_tenth),
            "by_confidence": groups(&self.orders.by_confidence),
            "thresholds": thresholds.collect::<Vec<_>>(),
        })
    }

    /// Three tables: by rank, by confidence, by threshold.
    fn print(&self, texts: String) -> Result<()> {
        let Orders { all, blocks, passes, .. } = &self.orders;
        out!(
            "{texts}, {} tokens in {} {}, filled by {}: {} passes, {:.2} tokens a pass",
            count(all.tokens),
            count(*blocks),
            if *blocks == 1 { "block" } else { "blocks" },
            self.rule,
            count(*passes),
            self.orders.tokens_per_pass()
        );
        let bits = self.bytes.filter(|bytes| *bytes > 0);
        let bits = bits.map(|n| format!(", {:.4} bits per byte", all.nats / LN_2 / n as f64));
        out!(
            "{} of the candidates are right; {:.4} nats per token in this order{}",
            percent(all.accuracy()),
            all.nats_per_token().unwrap_or(0.0),
            bits.unwrap_or_default()
        );
        let (head, groups) = self.by_order();
        self.print_groups(head, groups.into_iter())?;
        let tenths = self.orders.by_confidence.iter().enumerate();
        let tenth = |n: usize| format!("{:.1} to {:.1}", part(n), part(n + 1));
        self.print_groups("confidence", tenths.map(|(n, group)| (tenth(n), *group)))?;
        out!(
            "confidence and accuracy are {} apart in the mean",
            percent(Some(self.orders.calibration_error()))
        );
        if self.thresholds.is_empty() {
            return Ok(());
        }
        let head = ["threshold", "tokens/pass", "right", "nats/token"].map(str::to_owned);
        let rows = self.thresholds.iter().map(|(tau, orders)| {
            let (right, nats) = (orders.all.accuracy(), orders.all.nats_per_token());
            let pass = format!("{:.2}", orders.tokens_per_pass());
            [tau.to_string(), pass, percent(right), number(nats)]
        });
        print_table(head, rows)
    }

    /// The groups by order of filling that have tokens, and the name of what they are grouped by.
    pub(super) fn by_order(&self) -> (&'static str, Vec<(String, Group)>) {
        let tenths = self.orders.largest > RANKS_MAX;
        let (head, groups): (_, &[Group]) = match tenths {
            true => ("filled in", &self.orders.by_tenth),
            false => ("filled", &self.orders.by_rank),
        };
        let name = |n: usize| match tenths {
            true => format!("{:.0} to {:.0} %", 100.0 * part(n), 100.0 * part(n + 1)),
            false => match n {
                0 => "first".to_owned(),
                1 => "second".to_owned(),
                2 => "third".to_owned(),
                n => format!("{}th", n + 1),
            },
        };
        (head, groups.iter().enumerate().map(|(n, group)| (name(n), *group)).collect())
    }

    fn print_groups(
        &self,
        head: &str,
        groups: impl Iterator<Item = (String, Group)>,
    ) -> Result<()> {
        let head = [head, "tokens", "right", "confidence", "nats/token"].map(str::to_owned);
        let rows = groups.filter(|(_, group)| group.tokens > 0).map(|(name, group)| {
            let (right, sure) = (percent(group.accuracy()), percent(group.mean_confidence()));
            [name, count(group.tokens), right, sure, number(group.nats_per_token())]
        });
        print_table(head, rows)
    }
}

fn print_table<const N: usize>(
    head: [String; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<()> {
    let rows: Vec<[String; N]> = [head].into_iter().chain(rows).collect();
    out!("");
    for line in table(&rows) {
        out!("{line}");
    }
    Ok(())
}

/// The lower end of a tenth.
pub(super) fn part(tenth: usize) -> f64 {
    tenth as f64 / TENTHS as f64
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "–".to_owned(), |part| format!("{:.1} %", 100.0 * part))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

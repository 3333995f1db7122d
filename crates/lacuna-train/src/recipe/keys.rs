//! Says what `--resume` does about each key of a recipe that is not what it was when the run began.

use std::collections::{BTreeMap, BTreeSet};

use super::Recipe;
use crate::checkpoint::Progress;

/// The class of a key by what `--resume` does if it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnResume {
    /// The steps taken depend on it: no flag makes the run go on.
    Refused,
    /// The steps to come may have another value, if `--accept-changes` says so.
    Insisted,
    /// The new value holds from here on; no step depends on it.
    Obeyed,
    /// It had its effect when the run began.
    Ignored,
    /// A path may change, what stands there may not: its hash is compared.
    ByContent,
}

impl OnResume {
    /// The word that the docs have for it.
    #[cfg(test)]
    fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Insisted => "insist",
            Self::Obeyed => "obeyed",
            Self::Ignored => "ignored",
            Self::ByContent => "by content",
        }
    }
}

/// One key and the reason for its class.
pub(crate) struct Key {
    name: &'static str,
    on_resume: OnResume,
    why: &'static str,
}

const fn key(name: &'static str, on_resume: OnResume, why: &'static str) -> Key {
    Key { name, on_resume, why }
}

use OnResume::{ByContent, Ignored, Insisted, Obeyed, Refused};

const SHAPE: &str = "the weights have this shape";
const START: &str = "the weights began with it";
const MEASURED: &str = "the weights were learnt under it";
const TRAINED: &str = "the moments are of what was trained";
const FUTURE: &str = "the steps to come can have another value";
const TEXT: &str = "the place in the data counts windows of the text that the run began with";

/// Every key of a recipe. `stage.…` is said of a stage that has begun.
pub(crate) const KEYS: &[Key] = &[
    key("name", Ignored, "the folder has its name"),
    key("seed", Refused, "the order of the data and all noise are drawn from it"),
    key("keep_checkpoints", Obeyed, "it only saves"),
    key("tensorboard", Obeyed, "it only writes down"),
    key("model.from", ByContent, START),
    key("model.hidden_size", Refused, SHAPE),
    key("model.intermediate_size", Refused, SHAPE),
    key("model.layers", Refused, SHAPE),
    key("model.heads", Refused, SHAPE),
    key("model.kv_heads", Refused, SHAPE),
    key("model.rope_theta", Refused, SHAPE),
    key("model.max_positions", Refused, SHAPE),
    key("model.tie_word_embeddings", Refused, SHAPE),
    key("model.mask_token", Refused, MEASURED),
    key("model.mask_embedding", Refused, START),
    key("model.frozen", Refused, TRAINED),
    key("model.frozen_layers", Refused, TRAINED),
    key("model.precision", Refused, "the weights were rounded by it, or not"),
    key("model.allow_mode_mismatch", Ignored, "it was asked when the run began"),
    key("data.tokenizer", ByContent, "the embedding's rows are its tokens"),
    key("data.corpus", ByContent, TEXT),
    key("data.extensions", ByContent, TEXT),
    key("data.languages", ByContent, TEXT),
    key("data.max_document_bytes", ByContent, TEXT),
    key("data.text_fields", ByContent, TEXT),
    key("data.take_binary", ByContent, TEXT),
    key("data.take_hidden", ByContent, TEXT),
    key("data.take_ignored", ByContent, TEXT),
    key("data.take_duplicates", ByContent, TEXT),
    key("data.skip_generated", ByContent, TEXT),
    key("data.skip_minified", ByContent, TEXT),
    key("data.document_end", ByContent, TEXT),
    key("data.shards", ByContent, TEXT),
    key("data.verify_shards", Obeyed, "it only checks"),
    key("data.held_out", ByContent, TEXT),
    key("data.window", Refused, MEASURED),
    key("data.document_mask", Refused, MEASURED),
    key("data.fim.rate", ByContent, TEXT),
    key("data.fim.order", ByContent, TEXT),
    key("data.fim.context", ByContent, TEXT),
    key("data.source.corpus", ByContent, TEXT),
    key("data.source.shards", ByContent, TEXT),
    key("data.source.weight", Refused, "the place in the data counts windows of this mixture"),
    key("sft.samples", ByContent, TEXT),
    key("sft.template", ByContent, "the samples were written in it"),
    key("sft.packing", ByContent, TEXT),
    key("sft.closing_eos", ByContent, TEXT),
    key("sft.held_out", ByContent, TEXT),
    key("lora.rank", Refused, "the adapters have this shape"),
    key("lora.alpha", Refused, MEASURED),
    key("lora.targets", Refused, TRAINED),
    key("optimizer.beta1", Insisted, FUTURE),
    key("optimizer.beta2", Insisted, FUTURE),
    key("optimizer.epsilon", Insisted, FUTURE),
    key("optimizer.weight_decay", Insisted, FUTURE),
    key("optimizer.decay", Insisted, FUTURE),
    key("optimizer.clip", Insisted, FUTURE),
    key("optimizer.ema_decay", Insisted, "the mean of the steps to come has another span"),
    key("optimizer.moments", Refused, "the moments are kept so"),
    key("optimizer.spike_z_score", Insisted, FUTURE),
    key("stage.name", Refused, "its lines in metrics.jsonl have this name"),
    key("stage.objective", Refused, MEASURED),
    key("stage.steps", Insisted, "more or fewer steps to come; never fewer than were taken"),
    key("stage.batch_size", Insisted, FUTURE),
    key("stage.batch_tokens", Insisted, FUTURE),
    key("stage.micro_batch_size", Insisted, "sums are rounded in another order"),
    key("stage.learning_rate", Insisted, FUTURE),
    key("stage.learning_rate_shape", Insisted, FUTURE),
    key("stage.learning_rate_warmup", Insisted, FUTURE),
    key("stage.learning_rate_decay", Insisted, FUTURE),
    key("stage.learning_rate_final", Insisted, FUTURE),
    key("stage.reset_optimizer", Refused, "its first step was taken so"),
    key("stage.dropout", Insisted, FUTURE),
    key("stage.document_mask", Refused, MEASURED),
    key("stage.data", Refused, MEASURED),
    key("stage.block_size", Refused, MEASURED),
    key("stage.logit_shift", Refused, MEASURED),
    key("stage.corruption.times", Refused, MEASURED),
    key("stage.corruption.schedule", Refused, MEASURED),
    key("stage.corruption.transform", Refused, MEASURED),
    key("stage.corruption.mask", Refused, MEASURED),
    key("stage.corruption.weight", Refused, MEASURED),
    key("stage.corruption.warmup_steps", Refused, MEASURED),
    key("stage.corruption.warmup_start", Refused, MEASURED),
    key("stage.corruption.transform_during_warmup", Refused, MEASURED),
    key("stage.recompute_activations", Obeyed, "the gradients are the same, bit for bit"),
    key("stage.autoregressive_loss_every", Obeyed, "it only measures"),
    key("stage.checkpoint_every", Obeyed, "it only saves"),
    key("stage.checkpoint_minutes", Obeyed, "it only saves"),
    key("evaluation.windows", Insisted, "scores of later stages are of other text"),
    key("evaluation.at_start", Ignored, "the first step is taken"),
    key("evaluation.prompts", Obeyed, "completions are written at the end"),
    key("evaluation.max_new_tokens", Obeyed, "completions are written at the end"),
    key("evaluation.evaluate_every", Obeyed, "it only measures"),
    key("evaluation.sample_every", Obeyed, "it only shows"),
];

/// The row of a key such as `stage.1.steps`.
pub(crate) fn rule(dotted: &str) -> Option<&'static Key> {
    let plain: Vec<&str> =
        dotted.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
    let plain = plain.join(".");
    KEYS.iter().find(|key| key.name == plain)
}

/// The decision about one key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// The run may not go on; the text is the reason.
    Refused(String),
    Insisted,
    Obeyed,
    /// The change does not matter to the steps; the old value stays in the record.
    Kept,
}

/// A key that differs between two recipes.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) old: Option<toml::Value>,
    pub(crate) new: Option<toml::Value>,
    pub(crate) ruling: Ruling,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show =
            |v: &Option<toml::Value>| v.as_ref().map_or("nothing".into(), ToString::to_string);
        write!(f, "{}: {} → {}", self.key, show(&self.old), show(&self.new))
    }
}

/// Every key of a recipe with its value: `stage.0.steps`, `data.corpus`, …
pub(crate) fn flat(recipe: &Recipe) -> BTreeMap<String, toml::Value> {
    fn walk(prefix: &str, value: toml::Value, into: &mut BTreeMap<String, toml::Value>) {
        let joined = |key: &str| match prefix {
            "" => key.to_owned(),
            prefix => format!("{prefix}.{key}"),
        };
        match value {
            toml::Value::Table(table) => {
                table.into_iter().for_each(|(key, value)| walk(&joined(&key), value, into));
            }
            toml::Value::Array(items) if items.first().is_some_and(toml::Value::is_table) => {
                for (i, value) in items.into_iter().enumerate() {
                    walk(&joined(&i.to_string()), value, into);
                }
            }
            value => drop(into.insert(prefix.to_owned(), value)),
        }
    }
    let table = toml::Table::try_from(recipe).expect("a recipe holds nothing that TOML can't say");
    let mut keys = BTreeMap::new();
    walk("", toml::Value::Table(table), &mut keys);
    keys
}

/// The state of a stage in a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Finished,
    Begun,
    ToCome,
}

/// The stage that `new` gives more steps although it was finished, if nothing of the next has been done and its
/// learning rate had not fallen yet.
pub(crate) fn extended(old: &Recipe, new: &Recipe, at: &Progress) -> Option<usize> {
    let last = at.stage.checked_sub(1).filter(|_| at.stage_step == 0)?;
    let (before, now) = (old.stage.get(last)?, new.stage.get(last)?);
    (now.steps > before.steps && !before.learning_rate().falls()).then_some(last)
}

/// The keys in which `new` differs from `old`, each with what is to be done about it in a run that is at `at`.
pub(crate) fn compare(old: &Recipe, new: &Recipe, at: &Progress) -> Vec<Change> {
    let place = Place { old, new, at, extended: extended(old, new, at) };
    let (before, now) = (flat(old), flat(new));
    let shared = old.stage.len().min(new.stage.len());
    let mut changes = place.stages_from(shared);
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    for key in keys {
        let stage =
            key.strip_prefix("stage.").and_then(|rest| rest.split('.').next()?.parse().ok());
        if stage.is_some_and(|stage: usize| stage >= shared) || before.get(key) == now.get(key) {
            continue;
        }
        let ruling = match rule(key) {
            Some(rule) => place.ruling(rule, stage),
            None => Ruling::Refused("what it does to a begun run is not known".into()),
        };
        let (old, new) = (before.get(key).cloned(), now.get(key).cloned());
        changes.push(Change { key: key.clone(), old, new, ruling });
    }
    changes
}

/// A run's place between the recipe that it began with and the one that it is resumed with.
struct Place<'a> {
    old: &'a Recipe,
    new: &'a Recipe,
    at: &'a Progress,
    /// The finished stage that is given more steps.
    extended: Option<usize>,
}

impl Place<'_> {
    fn state(&self, stage: usize) -> State {
        match stage {
            stage if Some(stage) == self.extended => State::Begun,
            stage if stage < self.at.stage => State::Finished,
            stage if stage == self.at.stage && self.at.stage_step > 0 => State::Begun,
            _ => State::ToCome,
        }
    }

    /// The stages, from number `shared` on, that one of the two recipes alone has.
    fn stages_from(&self, shared: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for (stages, is_new) in [(&self.old.stage, false), (&self.new.stage, true)] {
            for (i, stage) in stages.iter().enumerate().skip(shared) {
                let name = Some(toml::Value::String(stage.name.clone()));
                let ruling = match self.state(i) {
                    State::ToCome => Ruling::Insisted,
                    _ => Ruling::Refused("steps of it are taken".into()),
                };
                let (old, new) = if is_new { (None, name) } else { (name, None) };
                changes.push(Change { key: format!("stage.{i}"), old, new, ruling });
            }
        }
        changes
    }

    /// Decides about a change of one key, of a stage or of the whole run.
    fn ruling(&self, rule: &Key, stage: Option<usize>) -> Ruling {
        match (rule.on_resume, stage.map(|stage| (stage, self.state(stage)))) {
            (Obeyed, _) => Ruling::Obeyed,
            (Ignored | ByContent, _) => Ruling::Kept,
            (_, Some((_, State::ToCome))) | (Insisted, None) => Ruling::Insisted,
            (Insisted, Some((stage, State::Begun))) => self.ruling_in_begun(rule, stage),
            (Insisted, Some((stage, State::Finished))) => self.ruling_in_finished(rule, stage),
            (Refused, _) => Ruling::Refused(rule.why.to_owned()),
        }
    }

    fn ruling_in_begun(&self, rule: &Key, stage: usize) -> Ruling {
        let taken = match Some(stage) == self.extended {
            true => self.old.stage[stage].steps,
            false => self.at.stage_step,
        };
        if rule.name == "stage.steps" && self.new.stage[stage].steps < taken {
            return Ruling::Refused(format!("{taken} steps of the stage are taken"));
        }
        Ruling::Insisted
    }

    fn ruling_in_finished(&self, rule: &Key, stage: usize) -> Ruling {
        let more =
            rule.name == "stage.steps" && self.new.stage[stage].steps > self.old.stage[stage].steps;
        let why = match more && stage + 1 == self.at.stage && self.at.stage_step == 0 {
            true => {
                "the stage is finished and its learning rate has fallen (learning_rate_decay, cosine): more steps would raise \
                 it again; add a [[stage]] in its place"
            }
            false => "the stage is finished",
        };
        Ruling::Refused(why.to_owned())
    }
}

/// The recipe as the record keeps it: `new`, but with the old values of keys that had their effect at the beginning.
pub(crate) fn recorded(new: &Recipe, changes: &[Change]) -> Recipe {
    let mut table = toml::Table::try_from(new).expect("a recipe holds nothing that TOML can't say");
    for change in changes.iter().filter(|change| change.ruling == Ruling::Kept) {
        let (path, name) = change.key.rsplit_once('.').unwrap_or(("", &change.key));
        match (section(&mut table, path), &change.old) {
            (Some(at), Some(old)) => drop(at.insert(name.to_owned(), old.clone())),
            (Some(at), None) => drop(at.remove(name)),
            (None, _) => {}
        }
    }
    table.try_into().unwrap_or_else(|_| new.clone())
}

/// The table at a path such as `data.source.0`, made where nothing is; `None` if something else is there.
fn section<'t>(table: &'t mut toml::Table, path: &str) -> Option<&'t mut toml::Table> {
    let mut parts = path.split('.').filter(|part| !part.is_empty());
    let Some(first) = parts.next() else { return Some(table) };
    let nothing = || toml::Value::Table(toml::Table::new());
    let mut at = table.entry(first).or_insert_with(nothing);
    for part in parts {
        at = match at {
            toml::Value::Table(table) => table.entry(part).or_insert_with(nothing),
            toml::Value::Array(items) => items.get_mut(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    at.as_table_mut()
}

#[cfg(test)]
mod tests;

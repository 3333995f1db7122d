//! Tells scores: as sentences, as a table of methods side by side, as JSON.

use anyhow::Result;
use lacuna::Attention;
use lacuna::likelihood::Likelihood;
use serde_json::{Map, Value, json};
use std::f64::consts::LN_2;

use super::super::progress::count;
use super::plan::{Missing, Named, Plan};

/// Scores of one text, or of all together, by each method that they have.
pub(super) struct Scores {
    pub(super) methods: Vec<(Named, Likelihood)>,
    pub(super) missing: Vec<Missing>,
    /// Bytes of the scored tokens.
    pub(super) bytes: Option<u64>,
    /// True if one method was asked for by itself: its figures stand at the top of the object.
    pub(super) is_single: bool,
}

impl Scores {
    /// Adds the scores of a further text. A method that it does not have is left out of the sum.
    pub(super) fn add(&mut self, other: &Scores) {
        for (method, reason) in &other.missing {
            if !self.missing.iter().any(|(known, _)| known == method) {
                self.missing.push((*method, reason.clone()));
            }
        }
        self.methods.retain(|(method, _)| !self.missing.iter().any(|(one, _)| one == method));
        for (method, total) in &mut self.methods {
            if let Some((_, one)) = other.methods.iter().find(|(known, _)| known == method) {
                *total += *one;
            }
        }
        self.bytes = self.bytes.zip(other.bytes).map(|(a, b)| a + b);
    }

    /// The scored tokens.
    pub(super) fn tokens(&self) -> usize {
        self.methods.first().map_or(0, |(_, score)| score.tokens)
    }

    /// The scores as one object.
    pub(super) fn as_json(&self, attention: Option<Attention>) -> Value {
        let mut object = Map::new();
        if let ([(method, score)], true) = (&self.methods[..], self.is_single) {
            object.extend(self.figures(score));
            object.insert("method".into(), method.name().into());
        } else {
            let figures = |(method, score): &(Named, Likelihood)| {
                (method.name().to_owned(), Value::from(self.figures(score)))
            };
            let methods: Map<String, Value> = self.methods.iter().map(figures).collect();
            object.insert("methods".into(), methods.into());
            object.insert("tokens".into(), self.tokens().into());
        }
        object.insert("bytes".into(), json!(self.bytes));
        if !self.missing.is_empty() {
            let missing = self.missing.iter();
            let missing: Map<String, Value> =
                missing.map(|(one, why)| (one.name().to_owned(), why.as_str().into())).collect();
            object.insert("missing".into(), missing.into());
        }
        if let Some(attention) = attention {
            object.insert("attention".into(), attention.name().into());
        }
        object.into()
    }

    fn figures(&self, score: &Likelihood) -> Map<String, Value> {
        let mut figures = Map::new();
        let mut put = |key: &str, value: Value| figures.insert(key.to_owned(), value);
        put("nats", score.nats.into());
        put("nats_per_token", score.nats_per_token().into());
        put("bits_per_byte", json!(self.bytes.map(|bytes| score.bits_per_byte(bytes))));
        put("tokens", score.tokens.into());
        put("passes", score.passes.into());
        if let Some(error) = per_token(score) {
            put("standard_error", error.into());
        }
        figures
    }

    /// The scores that a line of an earlier run has.
    pub(super) fn of_json(line: &Value, is_single: bool) -> Self {
        let score = |line: &Value| {
            let tokens = line["tokens"].as_u64().unwrap_or(0) as usize;
            Likelihood {
                nats: line["nats"].as_f64().unwrap_or(f64::NAN),
                tokens,
                passes: line["passes"].as_u64().unwrap_or(0) as usize,
                standard_error: line["standard_error"].as_f64().map(|one| one * tokens as f64),
            }
        };
        let named = |(name, line): (&String, &Value)| Some((Named::of_name(name)?, score(line)));
        let methods = match (line["method"].as_str().and_then(Named::of_name), &line["methods"]) {
            (Some(method), _) => vec![(method, score(line))],
            (None, Value::Object(methods)) => methods.iter().filter_map(named).collect(),
            _ => Vec::new(),
        };
        let missing = |(name, why): (&String, &Value)| {
            Some((Named::of_name(name)?, why.as_str().unwrap_or_default().to_owned()))
        };
        let missing = line["missing"].as_object().into_iter().flatten().filter_map(missing);
        Self { methods, missing: missing.collect(), bytes: line["bytes"].as_u64(), is_single }
    }

    /// A few lines about one method, or a table of several.
    pub(super) fn print(&self, plan: &Plan<'_>) -> Result<()> {
        match (&self.methods[..], self.is_single) {
            ([(method, score)], true) => self.print_one(*method, score, plan.attention),
            _ => self.print_table(),
        }
    }

    fn print_one(&self, method: Named, score: &Likelihood, attention: Attention) -> Result<()> {
        let nats = score.nats_per_token();
        let error = per_token(score).map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        out!("{nats:.4}{error} nats per token, {:.4} bits per token", nats / LN_2);
        if let Some(bytes) = self.bytes {
            out!("{:.4} bits per byte", score.bits_per_byte(bytes));
        }
        let passes = if score.passes == 1 { "pass" } else { "passes" };
        let under = told(method, attention).map(|one| format!(" under {one} attention"));
        out!(
            "{} tokens scored, {} {passes}{}",
            count(score.tokens),
            count(score.passes),
            under.unwrap_or_default()
        );
        Ok(())
    }

    fn print_table(&self) -> Result<()> {
        let rows = self.methods.iter().map(|(method, score)| {
            let error = per_token(score).map_or_else(String::new, |error| format!("± {error:.4}"));
            let bits = self
                .bytes
                .map_or("–".to_owned(), |bytes| format!("{:.4}", score.bits_per_byte(bytes)));
            let nats = score.nats_per_token();
            [
                method.name().to_owned(),
                format!("{nats:.4}"),
                error,
                format!("{:.4}", nats / LN_2),
                bits,
                count(score.passes),
            ]
        });
        let head = ["method", "nats/token", "", "bits/token", "bits/byte", "passes"];
        let rows: Vec<[String; 6]> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
        for line in table(&rows) {
            out!("{line}");
        }
        let bytes =
            self.bytes.map_or_else(String::new, |n| format!(", {} bytes", count(n as usize)));
        out!("\n{} tokens scored by each{bytes}", count(self.tokens()));
        for (method, reason) in &self.missing {
            out!("{} left out: {reason}", method.name());
        }
        Ok(())
    }
}

/// The standard error of nats per token.
fn per_token(score: &Likelihood) -> Option<f64> {
    score.standard_error.map(|error| error / score.tokens.max(1) as f64)
}

/// The attention that is worth a word: what a block-diffusion method did not read block by block.
pub(super) fn told(method: Named, attention: Attention) -> Option<Attention> {
    (method != Named::Ar && attention != Attention::BlockCausal).then_some(attention)
}

/// The lines of a table: the first column flush left, the others flush right, columns of nothing left out.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => line += &format!("{cell:<width$}"),
                _ if *width > 0 => line += &format!("  {cell:>width$}"),
                _ => {}
            }
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(nats: f64, error: Option<f64>) -> Scores {
        let one = Likelihood { nats, tokens: 10, passes: 3, standard_error: error };
        Scores {
            methods: vec![
                (Named::Ar, Likelihood { standard_error: None, ..one }),
                (Named::MonteCarlo, one),
            ],
            missing: Vec::new(),
            bytes: Some(30),
            is_single: false,
        }
    }

    #[test]
    fn the_lines_of_an_earlier_run_are_read_as_they_were_written() {
        for is_single in [false, true] {
            let mut before = scores(0.1 + 0.2, Some(0.7));
            if is_single {
                before.methods.remove(0);
            }
            before.is_single = is_single;
            let after = Scores::of_json(&before.as_json(None), is_single);
            assert_eq!(before.as_json(None), after.as_json(None));
        }
    }

    #[test]
    fn a_method_that_one_text_lacks_is_left_out_of_the_sum() {
        let mut total = scores(1.0, Some(3.0));
        total.add(&scores(2.0, Some(4.0)));
        assert_eq!(total.methods[1].1.nats, 3.0);
        assert_eq!(total.methods[1].1.standard_error, Some(5.0), "errors add as squares");
        assert_eq!((total.tokens(), total.bytes), (20, Some(60)));
        let mut other = scores(1.0, None);
        other.missing.push((Named::MonteCarlo, "why".into()));
        other.methods.truncate(1);
        total.add(&other);
        let object = total.as_json(None);
        assert_eq!(object["missing"]["monte-carlo"], "why");
        assert_eq!(object["methods"].as_object().unwrap().len(), 1);
        assert_eq!(object["methods"]["ar"]["tokens"], 30);
    }
}

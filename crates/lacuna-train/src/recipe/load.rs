//! Reads a recipe from its file, applies overrides, makes its paths absolute, and checks it.

use lacuna_objective::MaskSampler;
use std::path::Path;

use super::overrides::{anchor_paths, check_paths, set_all};
use super::{
    EvaluationRecipe, MaskEmbedding, ObjectiveKind, Precision, Recipe, Stage, StageData, bounds,
    corruption, words,
};
use crate::error::{IoContext, Result, TrainError};
use crate::learning_rate::LearningRateShape;

/// The most bytes of a recipe.
const LONGEST: u64 = 16 << 20;

impl Recipe {
    /// Reads a recipe and applies `--set key.path=value` overrides. Relative paths in the file are taken from
    /// the file's directory, those in overrides from the current one.
    ///
    /// # Errors
    /// Errors name the file, the key and, where a key is unknown, the nearest known one.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let recipe = Self::load_recorded(path, overrides)?;
        let EvaluationRecipe { sample_every, prompts, .. } = &recipe.evaluation;
        if *sample_every > 0 && prompts.is_empty() {
            return Err(recipe.fault(format!(
                "evaluation.sample_every is {sample_every}, and evaluation.prompts is empty: nothing would be completed; \
                 give prompts, or 0"
            )));
        }
        Ok(recipe)
    }

    /// As [`load`](Self::load), of a recipe that a run has begun with: a key that has no effect is no fault there, since
    /// nobody can change it any more.
    pub(crate) fn load_recorded(path: &Path, overrides: &[String]) -> Result<Self> {
        let fail = |reason: String| TrainError::Recipe { file: path.to_owned(), reason };
        let bytes = lacuna_files::read_file(path, LONGEST)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| fail(words::no_text(error.as_bytes()).to_owned()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut table: toml::Table = text.parse().map_err(|e| fail(words::of_file(text, &e)))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        check_paths(&table).map_err(&fail)?;
        anchor_paths(&mut table, &std::path::absolute(base).at("resolving", base)?);
        set_all(&mut table, overrides).map_err(&fail)?;
        check_paths(&table).map_err(&fail)?;
        corruption::fill_in(&mut table);
        // Paths are absolute by now: the values that two errors quote may differ.
        let kind = |error: &toml::de::Error| error.message().chars().take(14).collect::<String>();
        let here = std::env::current_dir().at("resolving", Path::new("."))?;
        anchor_paths(&mut table, &here);
        let mut recipe: Recipe = table.try_into().map_err(|error: toml::de::Error| {
            // As a rule the file alone has the same fault, and then there is a place for it.
            match toml::from_str::<Recipe>(text) {
                Err(placed) if kind(&placed) == kind(&error) => fail(words::of_file(text, &placed)),
                _ => fail(words::with_key(&error)),
            }
        })?;
        recipe.file = path.to_owned();
        recipe.count_windows().map_err(&fail)?;
        recipe.validate().map_err(fail)?;
        Ok(recipe)
    }

    /// An error that blames a key of this recipe.
    pub(crate) fn fault(&self, reason: String) -> TrainError {
        TrainError::Recipe { file: self.file.clone(), reason }
    }

    /// The recipe's fingerprint: the BLAKE3 hash of [`to_toml`](Self::to_toml).
    pub fn fingerprint(&self) -> String {
        blake3::hash(self.to_toml().as_bytes()).to_hex().to_string()
    }

    /// The recipe as TOML, every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe holds nothing that TOML can't say")
    }

    /// Optimizer steps of all stages.
    pub fn total_steps(&self) -> u64 {
        self.stage.iter().map(|s| s.steps).sum()
    }

    /// Makes windows of a batch that is given in tokens.
    fn count_windows(&mut self) -> std::result::Result<(), String> {
        let window = self.data.window.max(1);
        for (i, stage) in self.stage.iter_mut().enumerate() {
            let Some(tokens) = stage.batch_tokens else { continue };
            let at = stage.place(i);
            let windows = tokens / window;
            if tokens == 0 || !tokens.is_multiple_of(window) {
                let (less, more) = (windows.max(1) * window, (windows + 1).saturating_mul(window));
                return Err(format!(
                    "{at}: batch_tokens is {tokens}, expected a whole number of windows of {window}: {less} or {more}"
                ));
            }
            if stage.batch_size != 0 && stage.batch_size != windows {
                return Err(format!(
                    "{at}: batch_size is {}, and batch_tokens are {windows} windows; give one of the two",
                    stage.batch_size
                ));
            }
            stage.batch_size = windows;
        }
        Ok(())
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let need = |ok: bool, message: String| if ok { Ok(()) } else { Err(message) };
        words::check_name("name", &self.name)?;
        need(!self.stage.is_empty(), "no [[stage]]: a run needs at least one".into())?;
        need(
            self.data.window >= 2,
            format!("data.window is {}, at least 2 is needed", self.data.window),
        )?;
        need(
            (0.0..1.0).contains(&self.data.held_out),
            format!("data.held_out is {}, expected 0 to below 1", self.data.held_out),
        )?;
        let no_text = self.sft.is_some() && self.stage.iter().all(|s| s.data == StageData::Sft);
        self.data.check(!no_text)?;
        self.sft.as_ref().map_or(Ok(()), super::SftRecipe::check)?;
        if self.model.from.is_none() {
            let m = &self.model;
            for (key, value) in [
                ("hidden_size", m.hidden_size),
                ("intermediate_size", m.intermediate_size),
                ("layers", m.layers),
                ("heads", m.heads),
            ] {
                need(
                    value > 0,
                    format!(
                        "model.{key} is missing or 0, expected a number from 1 (or give model.from)"
                    ),
                )?;
            }
            self.validate_heads()?;
        }
        self.validate_trained()?;
        bounds::check(self)?;
        self.stage.iter().enumerate().try_for_each(|(i, stage)| {
            let at = |reason: String| format!("{}: {reason}", stage.place(i));
            self.validate_stage(stage).map_err(at)
        })
    }

    fn validate_trained(&self) -> std::result::Result<(), String> {
        let m = &self.model;
        let Some(lora) = &self.lora else { return Ok(()) };
        lora.check()?;
        if m.from.is_none() {
            return Err("[lora] needs a checkpoint to stand beside: give model.from".into());
        }
        if !m.frozen.is_empty() || m.frozen_layers > 0 {
            return Err(format!(
                "with [lora] every weight stays as it is: take model.frozen ({} groups) and model.frozen_layers ({}) out",
                m.frozen.len(),
                m.frozen_layers
            ));
        }
        if m.mask_embedding != MaskEmbedding::Checkpoint {
            return Err("model.mask_embedding changes a row of the checkpoint, and an adapter stands beside it as it is: \
                        give the row its start with lacuna convert MODEL NEW --to block-diffusion --mask-embedding mean, \
                        and train [lora] from that"
                .into());
        }
        if m.precision != Precision::F32 {
            return Err("model.precision = \"bf16\" rounds weights that [lora] does not train; take one out".into());
        }
        Ok(())
    }

    fn validate_heads(&self) -> std::result::Result<(), String> {
        let m = &self.model;
        let kv_heads = m.kv_heads.unwrap_or(m.heads);
        if !m.hidden_size.is_multiple_of(2 * m.heads) {
            return Err(format!(
                "model.heads is {}, and heads of an even size must fill model.hidden_size ({}): \
                 hidden_size is a multiple of 2 * heads",
                m.heads, m.hidden_size
            ));
        }
        if kv_heads == 0 || !m.heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "model.kv_heads is {kv_heads}, expected a divisor of model.heads ({})",
                m.heads
            ));
        }
        if !(m.rope_theta.is_finite() && m.rope_theta >= 1.0) {
            return Err(format!("model.rope_theta is {}, expected a number from 1", m.rope_theta));
        }
        Ok(())
    }

    fn validate_stage(&self, stage: &Stage) -> std::result::Result<(), String> {
        words::check_name("name", &stage.name)?;
        if stage.steps == 0 || stage.batch_size == 0 {
            return Err(format!(
                "steps is {} and batch_size (or batch_tokens) {}, each must be at least 1",
                stage.steps, stage.batch_size
            ));
        }
        if !(0.0..1.0).contains(&stage.dropout) {
            return Err(format!("dropout is {}, expected 0 to below 1", stage.dropout));
        }
        let micro = stage.micro_batch_size.unwrap_or(stage.batch_size);
        if micro == 0 || micro > stage.batch_size {
            return Err(format!(
                "micro_batch_size is {micro}, expected 1 to batch_size ({})",
                stage.batch_size
            ));
        }
        if !(stage.learning_rate.is_finite() && stage.learning_rate >= 0.0) {
            return Err(format!(
                "learning_rate is {}, expected a number from 0",
                stage.learning_rate
            ));
        }
        let ramps = stage.learning_rate_warmup.checked_add(stage.learning_rate_decay);
        if ramps.is_none_or(|ramps| ramps > stage.steps) {
            return Err(format!(
                "learning_rate_warmup is {} and learning_rate_decay {}, together more than steps ({})",
                stage.learning_rate_warmup, stage.learning_rate_decay, stage.steps
            ));
        }
        if stage.learning_rate_decay > 0
            && stage.learning_rate_shape != LearningRateShape::WarmupStableDecay
        {
            return Err(format!(
                "learning_rate_decay is {}, and belongs to learning_rate_shape = \"warmup-stable-decay\" alone",
                stage.learning_rate_decay
            ));
        }
        if stage.data == StageData::Sft && self.sft.is_none() {
            return Err("data = \"sft\" needs an [sft] section with samples".into());
        }
        if stage.objective != ObjectiveKind::Autoregressive {
            let rule = stage.corruption.rule(0)?;
            let paired = rule.mask_sampler == MaskSampler::ComplementaryPairs;
            if paired && !(stage.batch_size.is_multiple_of(2) && micro.is_multiple_of(2)) {
                return Err(format!(
                    "batch_size is {} and micro_batch_size {micro}; complementary-pairs needs both even",
                    stage.batch_size
                ));
            }
            if stage.corruption.warmup_steps > stage.steps {
                return Err(format!(
                    "corruption.warmup_steps is {}, more than steps ({})",
                    stage.corruption.warmup_steps, stage.steps
                ));
            }
        }
        match (stage.objective, stage.block_size) {
            (ObjectiveKind::BlockDiffusion, None) => Err(format!(
                "block_size is missing, expected 1 to data.window ({})",
                self.data.window
            )),
            (ObjectiveKind::BlockDiffusion, Some(b)) if b == 0 || b > self.data.window => {
                Err(format!("block_size is {b}, expected 1 to data.window ({})", self.data.window))
            }
            (ObjectiveKind::BlockDiffusion, Some(_)) | (_, None) => Ok(()),
            (_, Some(b)) => Err(format!(
                "block_size is {b}, and belongs to objective = \"block-diffusion\" alone"
            )),
        }
    }
}

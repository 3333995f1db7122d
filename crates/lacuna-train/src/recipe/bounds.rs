//! Refuses numbers that no run has, before anything is read, and not by running out of memory.

use super::{OptimizerRecipe, Recipe, Stage};

const MOST_POSITIONS: usize = 1 << 24;
/// The most tokens of one step: four times the largest batches that language models are trained with.
const MOST_TOKENS: usize = 1 << 26;
const MOST_STEPS: u64 = 1 << 40;

/// Names the first number that is out of bounds.
pub(super) fn check(recipe: &Recipe) -> Result<(), String> {
    let window = recipe.data.window;
    if window > MOST_POSITIONS {
        return Err(format!("data.window is {window}, at most {MOST_POSITIONS} is read"));
    }
    let positions = recipe.model.max_positions.unwrap_or(window);
    if positions > MOST_POSITIONS {
        return Err(format!(
            "model.max_positions is {positions}, at most {MOST_POSITIONS} is read"
        ));
    }
    check_optimizer(&recipe.optimizer)?;
    recipe.stage.iter().enumerate().try_for_each(|(i, stage)| {
        check_stage(stage, window).map_err(|reason| format!("{}: {reason}", stage.place(i)))
    })
}

/// The optimizer computes in f32, in which a number may be 0 or 1 that is not quite.
fn check_optimizer(optimizer: &OptimizerRecipe) -> Result<(), String> {
    let OptimizerRecipe { beta1, beta2, epsilon, weight_decay, clip, .. } = *optimizer;
    let OptimizerRecipe { spike_z_score, ema_decay, .. } = *optimizer;
    let below_one = |value: f64| (0.0..1.0).contains(&value) && (value as f32) < 1.0;
    let from_zero = |value: f64| value.is_finite() && value >= 0.0;
    for (key, value, is_right, expected) in [
        ("beta1", beta1, below_one(beta1), "0 to below 1"),
        ("beta2", beta2, below_one(beta2), "0 to below 1"),
        (
            "epsilon",
            epsilon,
            epsilon >= f64::from(f32::MIN_POSITIVE) && epsilon <= 1.0,
            "a number above 0 (1.2e-38 at least), at most 1: moments of 0 are divided by it",
        ),
        ("weight_decay", weight_decay, from_zero(weight_decay), "a number from 0"),
        ("clip", clip, clip > 0.0, "a number above 0 (inf: no clipping)"),
        ("spike_z_score", spike_z_score, from_zero(spike_z_score), "a number from 0 (0: never)"),
        ("ema_decay", ema_decay, below_one(ema_decay), "0 (none) to below 1"),
    ] {
        if !is_right {
            return Err(format!("optimizer.{key} is {value:e}, expected {expected}"));
        }
    }
    Ok(())
}

fn check_stage(stage: &Stage, window: usize) -> Result<(), String> {
    let Stage { steps, batch_size, learning_rate_final: last, .. } = stage;
    if *steps > MOST_STEPS {
        return Err(format!("steps is {steps}, at most {MOST_STEPS} are run"));
    }
    if batch_size.checked_mul(window).is_none_or(|tokens| tokens > MOST_TOKENS) {
        return Err(format!(
            "batch_size is {batch_size}, windows of {window} tokens each; at most {MOST_TOKENS} tokens make a step"
        ));
    }
    let minutes = stage.checkpoint_minutes;
    if !(minutes.is_finite() && minutes >= 0.0) {
        return Err(format!(
            "checkpoint_minutes is {minutes}, expected a number from 0 (0: never)"
        ));
    }
    if !(last.is_finite() && *last >= 0.0) {
        return Err(format!(
            "learning_rate_final is {last:e}, expected a part of the peak, from 0"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn load(set: &str) -> Result<Recipe, String> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/smoke.toml");
        Recipe::load(&file, &[set.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_that_no_run_has_are_refused_by_their_names() {
        for (set, words) in [
            ("data.window=9223372036854775807", "data.window is 9223372036854775807, at most"),
            ("data.window=2147483648", "data.window is"),
            ("model.max_positions=4294967296", "model.max_positions is"),
            ("stage.0.steps=9223372036854775807", "stage.0 (`autoregressive`): steps is"),
            ("stage.0.batch_size=9223372036854775807", "windows of 32 tokens each"),
            ("stage.1.batch_size=2147483648", "stage.1 (`block-diffusion`): batch_size is"),
            ("optimizer.epsilon=nan", "optimizer.epsilon is NaN, expected a number above 0"),
            ("optimizer.epsilon=0.0", "optimizer.epsilon is 0e0, expected a number above 0"),
            ("optimizer.epsilon=1e-50", "optimizer.epsilon is 1e-50"),
            ("optimizer.beta2=0.9999999999", "optimizer.beta2 is 9.999999999e-1"),
            ("optimizer.ema_decay=1.0", "optimizer.ema_decay is 1e0"),
            ("optimizer.weight_decay=inf", "optimizer.weight_decay is inf"),
            ("optimizer.weight_decay=-1.0", "optimizer.weight_decay is -1e0"),
            ("optimizer.spike_z_score=-1.0", "optimizer.spike_z_score is -1e0"),
            ("stage.0.checkpoint_minutes=-1.0", "checkpoint_minutes is -1"),
            ("stage.0.learning_rate_final=-inf", "learning_rate_final is -inf"),
        ] {
            let error = load(set).map(|_| ()).expect_err(set);
            assert!(error.contains(words) && error.contains("smoke.toml"), "{set}: {error}");
        }
        assert!(load("stage.0.batch_size=512").is_ok());
        assert!(load("optimizer.clip=inf").is_ok());
    }

    #[test]
    fn every_number_of_the_optimizer_has_a_range() {
        let recipe = load("seed=1").unwrap();
        let keys = crate::recipe::keys::flat(&recipe);
        let numbers = keys.iter().filter(|(key, value)| {
            key.starts_with("optimizer.") && (value.is_float() || value.is_integer())
        });
        let mut seen = 0;
        for (key, _) in numbers {
            for value in ["nan", "-1.0", "-inf"] {
                let error = load(&format!("{key}={value}")).map(|_| ()).expect_err(key);
                assert!(error.contains(key.as_str()), "{key}={value}: {error}");
            }
            seen += 1;
        }
        assert!(seen >= 7, "{seen}");
    }
}

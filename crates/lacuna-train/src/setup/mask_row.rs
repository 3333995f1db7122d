//! Lets the MASK row of a checkpoint that never had one start with values of its own (choice 10).

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::mean_row;
use lacuna_model::Transformer;
use lacuna_objective::Targets;
use lacuna_random::{Purpose, stream, uniform_f32};

use super::RunData;
use crate::error::Result;
use crate::recipe::{MaskEmbedding, ObjectiveKind, Recipe};

/// Windows that a start is measured on.
const MEASURED_WINDOWS: usize = 4;

/// Gives the MASK row the start that the recipe asks for; a sentence about what was measured, if anything was.
pub(super) fn start(
    model: &Transformer,
    recipe: &Recipe,
    data: &RunData,
) -> Result<Option<String>> {
    let Some(mask) = data.special.mask else { return Ok(None) };
    match recipe.model.mask_embedding {
        MaskEmbedding::Checkpoint => Ok(None),
        MaskEmbedding::Mean => {
            let table = Table::of(model)?;
            table.set(model, mask, &table.mean(recipe.seed)?)?;
            Ok(None)
        }
        MaskEmbedding::Measured => measured(model, recipe, data, mask),
    }
}

/// The embedding's rows.
struct Table {
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn of(model: &Transformer) -> Result<Self> {
        let table = &model.parameters()?.embed;
        let (_, width) = table.dims2()?;
        let values = table.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self { values, width })
    }

    fn row(&self, id: u32) -> Option<&[f32]> {
        self.values.get(id as usize * self.width..)?.get(..self.width)
    }

    /// The mean of all rows and a little noise.
    fn mean(&self, seed: u64) -> Result<Vec<f32>> {
        let mut rng = stream(seed, Purpose::MaskEmbedding, 0, 0);
        let noise = || uniform_f32(&mut rng) - 0.5;
        Ok(mean_row(self.width, [Ok(self.values.clone())], noise)?)
    }

    /// Writes the table into the model, with another row for MASK.
    fn set(&self, model: &Transformer, mask: u32, row: &[f32]) -> Result<()> {
        let table = &model.parameters()?.embed;
        let mut values = self.values.clone();
        values[mask as usize * self.width..][..self.width].copy_from_slice(row);
        let filled = Tensor::from_vec(values, table.shape(), &Device::Cpu)?;
        Ok(table.set(&filled.to_dtype(table.dtype())?.to_device(table.device())?)?)
    }
}

/// Tries some rows on the first training windows, masked as the first diffusion stage masks them behind its warmup, and
/// takes the one under which masked tokens cost least.
fn measured(
    model: &Transformer,
    recipe: &Recipe,
    data: &RunData,
    mask: u32,
) -> Result<Option<String>> {
    let stages = recipe.stage.iter();
    let mut diffusion = stages.filter(|stage| stage.objective != ObjectiveKind::Autoregressive);
    let Some(stage) = diffusion.next() else { return Ok(None) };
    let objective = data.objective(recipe, stage)?;
    let count = MEASURED_WINDOWS.min(data.train.dataset().windows());
    let windows = (0..count as u64).map(|number| Ok(data.train.row(number)?.window));
    let windows = windows.collect::<Result<Vec<_>>>()?.into_iter();
    // Complementary pairs are two rows of one window.
    let times = objective.rows_per_window();
    let windows: Vec<_> = windows.flat_map(|one| std::iter::repeat_n(one, times)).collect();
    let examples = objective.examples(&windows, recipe.seed, 0, stage.corruption.warmup_steps)?;
    let targets = Targets::of(examples.iter().flat_map(|example| &example.targets));
    if targets.ids.is_empty() {
        return Ok(None);
    }
    let table = Table::of(model)?;
    let own = |id: Option<u32>| id.and_then(|id| table.row(id)).map(<[f32]>::to_vec);
    let candidates = [
        ("the checkpoint's row", own(Some(mask))),
        ("the mean row", Some(table.mean(recipe.seed)?)),
        ("the row of the text's end", own(Some(data.special.eos))),
        ("the row of the text's begin", own(data.special.bos)),
        ("the row of the padding", own(Some(data.special.pad))),
    ];
    let mut found: Vec<(f64, &str, Vec<f32>)> = Vec::new();
    for (name, row) in candidates {
        let Some(row) = row.filter(|row| found.iter().all(|(.., other)| other != row)) else {
            continue;
        };
        table.set(model, mask, &row)?;
        let reader = model.unrecorded()?;
        let nll = reader.token_nll(&reader.forward(&objective.batch(&examples)?)?, &targets.ids)?;
        let mean = nll.iter().map(|v| f64::from(*v)).sum::<f64>() / nll.len() as f64;
        found.push((mean, name, row));
    }
    found.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let (_, _, best) = &found[0];
    table.set(model, mask, best)?;
    let told: Vec<_> = found.iter().map(|(mean, name, _)| format!("{name} {mean:.2}")).collect();
    Ok(Some(format!(
        "MASK starts as {}; nats of a masked token under each start: {}",
        found[0].1,
        told.join(", ")
    )))
}

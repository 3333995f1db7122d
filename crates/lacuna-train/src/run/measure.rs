//! Measures a run on the way: held-out scores before it, during stages and behind them, and samples.

use super::{Event, Run};
use crate::error::Result;
use crate::evaluation::{evaluate, evaluate_model};
use crate::recipe::{EvaluationRecipe, Stage};

impl Run<'_, '_> {
    /// Tells what is to be watched after this many steps of a stage: held-out scores, samples.
    fn watches(&self) -> (bool, bool) {
        let EvaluationRecipe { evaluate_every, sample_every, .. } = self.recipe.evaluation;
        let at = self.progress.stage_step;
        let is_due = |every: u64| every > 0 && at > 0 && at.is_multiple_of(every);
        (is_due(evaluate_every), is_due(sample_every))
    }

    pub(super) fn is_unwatched(&self, stage: &Stage) -> bool {
        let (scores, samples) = self.watches();
        let in_stage = self.progress.stage_step < stage.steps;
        in_stage && (scores || samples) && self.progress.watched != self.progress.step
    }

    /// Scores held-out text and has samples written, where it is time for that; tells whether the score is the best. A
    /// stage's end is scored behind its checkpoint, by [`measure`](Self::measure).
    pub(super) fn watch(
        &mut self,
        stage: &Stage,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool> {
        let (scores, samples) = self.watches();
        let (step, index) = (self.progress.step, self.progress.stage);
        if scores || samples {
            self.progress.watched = step;
            self.settle()?;
        }
        let Some(keeper) = &mut self.keeper else { return Ok(false) };
        let mut is_best = false;
        if scores && self.progress.stage_step < stage.steps {
            let evaluation =
                evaluate_model(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                    observe(Event::Watching(done, all));
                })?;
            if let Some(evaluation) = &evaluation {
                is_best = keeper.held_out((index, stage), step, evaluation, observe);
            }
        }
        if samples {
            let (model, data, mut written) = (&self.model, &self.data, Vec::new());
            let wanted = &self.recipe.evaluation;
            observe(Event::SamplesDue { step, model, data, wanted, written: &mut written });
            keeper.samples((step, stage), &written, observe);
        }
        Ok(is_best)
    }

    pub(super) fn measure(
        &mut self,
        index: usize,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        self.settle()?;
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let stage = &self.recipe.stage[index];
        let evaluation =
            evaluate(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                observe(Event::Evaluating(done, all));
            })?;
        keeper.scores((index, stage), self.progress.step, evaluation.as_ref(), observe);
        Ok(())
    }

    /// Measures the model from before the first step, as its first stage will be measured.
    pub(super) fn measure_start(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let stage = &self.recipe.stage[0];
        if self.progress.step > 0 || !self.recipe.evaluation.at_start || self.keeper.is_none() {
            return Ok(());
        }
        self.enter(stage)?;
        let evaluation =
            evaluate(self.recipe, stage, &self.data, &self.model, &mut |done, all| {
                observe(Event::Evaluating(done, all));
            })?;
        if let (Some(keeper), Some(evaluation)) = (&mut self.keeper, &evaluation) {
            keeper.start_scores(evaluation, observe);
        }
        Ok(())
    }

    /// Measures a stage that an earlier process had saved and not measured to the end.
    pub(super) fn measure_late(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let last = self.progress.stage.checked_sub(1).filter(|_| self.progress.stage_step == 0);
        let Some((i, keeper)) = last.zip(self.keeper.as_ref()) else { return Ok(()) };
        if keeper.has_scores(i) {
            return Ok(());
        }
        self.enter(&self.recipe.stage[i])?;
        self.measure(i, observe)
    }
}

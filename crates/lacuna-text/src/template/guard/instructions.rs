//! Decides what becomes of each instruction of a compiled template.
//!
//! The match over instructions names every one of them: with a version of the engine that has another, it does not
//! compile, until somebody has said what that one may do. That is why the engine's version is pinned, and why its
//! feature `multi_template` is on, whose instructions are all refused: another package of a build may turn it on.

use std::collections::BTreeSet;

use minijinja::machinery::{CompiledTemplate, Instruction};

use super::names::{self, Reach};
use super::values::{
    ADD, AT_LEAST, AT_MOST, CONCAT, EQUAL, GREATER, IN, ITEM, LESS, LIST, MAP, TUPLE, UNEQUAL,
};

/// The engine's number of a filter or test that is looked up every time.
const NOT_CACHED: u8 = !0;

/// The fate of an instruction.
enum Verdict<'s> {
    /// It stays: it walks through no value, or the engine's own fuel pays for it.
    Passes,
    /// This one, which pays, takes its place.
    Becomes(Instruction<'s>),
    /// The template is not run, for this reason.
    Refused(&'static str),
}

/// All instructions of a template and of its blocks.
pub(super) fn all<'a, 's>(
    template: &'a CompiledTemplate<'s>,
) -> impl Iterator<Item = &'a Instruction<'s>> {
    let all = template.blocks.values().chain(std::iter::once(&template.instructions));
    all.flat_map(|instructions| (0..).map_while(|at| instructions.get(at)))
}

/// Replaces what walks through values by its guarded form, one instruction by one.
///
/// # Errors
/// The reason why the template can't be run.
pub(super) fn rewrite(template: &mut CompiledTemplate<'_>) -> Result<(), &'static str> {
    let assigns = all(template).any(|i| matches!(i, Instruction::SetAttr(_)));
    let blocks = template.blocks.values_mut();
    for instructions in blocks.chain(std::iter::once(&mut template.instructions)) {
        let each = (0..).map_while(|at| instructions.get(at));
        let targets: BTreeSet<u32> = each.filter_map(target).collect();
        let mut at = 0u32;
        loop {
            let before = at.checked_sub(1).and_then(|before| instructions.get(before));
            let after_constant =
                matches!(before, Some(Instruction::LoadConst(_))) && !targets.contains(&at);
            let Some(instruction) = instructions.get_mut(at) else { break };
            match verdict(instruction, Around { assigns, after_constant }) {
                Verdict::Passes => {}
                Verdict::Becomes(guarded) => *instruction = guarded,
                Verdict::Refused(reason) => return Err(reason),
            }
            at += 1;
        }
    }
    Ok(())
}

/// The places at which an instruction may go on but at the next; [`verdict`] is where a new
/// instruction makes itself known.
fn target(instruction: &Instruction<'_>) -> Option<u32> {
    match instruction {
        Instruction::Iterate(to)
        | Instruction::Jump(to)
        | Instruction::JumpIfFalse(to)
        | Instruction::JumpIfFalseOrPop(to)
        | Instruction::JumpIfTrueOrPop(to)
        | Instruction::BuildMacro(_, to, _) => Some(*to),
        _ => None,
    }
}

/// The words of the rest of a template on an instruction.
struct Around {
    /// The template assigns to namespaces, which can then hold themselves.
    assigns: bool,
    /// The value on top of the stack stands in the source.
    after_constant: bool,
}

fn verdict<'s>(instruction: &Instruction<'s>, around: Around) -> Verdict<'s> {
    let filter = |name, count| Verdict::Becomes(Instruction::ApplyFilter(name, count, NOT_CACHED));
    // Longer literals stand in the source as they are; what holds them pays.
    let literal = |name, count: Option<usize>| match count.map(u16::try_from) {
        None => filter(name, None),
        Some(Ok(count)) => filter(name, Some(count)),
        Some(Err(_)) => Verdict::Passes,
    };
    match instruction {
        // Operators that walk through their values.
        Instruction::Add => filter(ADD, Some(2)),
        Instruction::StringConcat => filter(CONCAT, Some(2)),
        Instruction::Eq => filter(EQUAL, Some(2)),
        Instruction::Ne => filter(UNEQUAL, Some(2)),
        Instruction::Gt => filter(GREATER, Some(2)),
        Instruction::Gte => filter(AT_LEAST, Some(2)),
        Instruction::Lt => filter(LESS, Some(2)),
        Instruction::Lte => filter(AT_MOST, Some(2)),
        Instruction::In => filter(IN, Some(2)),
        Instruction::BuildList(count) => literal(LIST, *count),
        Instruction::BuildTuple(count) => literal(TUPLE, *count),
        Instruction::BuildMap(pairs) => literal(MAP, Some(pairs.saturating_mul(2))),
        // `a < b < c`, which has no guarded form.
        Instruction::CompareAndPreserve(_) if around.assigns => Verdict::Refused(
            "write `a < b and b < c` for `a < b < c` where namespaces are assigned to",
        ),
        Instruction::CompareAndPreserve(_) => Verdict::Passes,
        // A key is walked through to find it; one that is written down has a fixed size.
        Instruction::GetItem if around.after_constant => Verdict::Passes,
        Instruction::GetItem => filter(ITEM, Some(2)),
        // Names that are not in the lists were taken out of the environment: the engine says that it knows none such.
        Instruction::ApplyFilter(name, count, _) => match names::filter(name) {
            Some(Reach::Deep(guarded)) => filter(guarded, *count),
            Some(Reach::Shallow) | None => Verdict::Passes,
        },
        Instruction::PerformTest(name, count, _) => match names::test(name) {
            Some(Reach::Deep(guarded)) => {
                Verdict::Becomes(Instruction::PerformTest(guarded, *count, NOT_CACHED))
            }
            Some(Reach::Shallow) | None => Verdict::Passes,
        },
        // Functions are in the environment, which has those of the list, or macros of the template. Methods of values
        // are in a list of their own, but for the loop's, which are the engine's.
        Instruction::CallMethod(name, count) => match names::loop_method(name) {
            Some(guarded) => filter(guarded, *count),
            None => Verdict::Passes,
        },
        Instruction::CallFunction(..) | Instruction::CallObject(_) => Verdict::Passes,
        // The formatter of the environment pays for what is put out.
        Instruction::Emit => Verdict::Passes,
        // The engine's fuel pays for these, or they make a value of a fixed size.
        Instruction::GetAttr(_)
        | Instruction::Slice
        | Instruction::Sub
        | Instruction::Mul
        | Instruction::Div
        | Instruction::IntDiv
        | Instruction::Rem
        | Instruction::Pow
        | Instruction::Neg
        | Instruction::Not
        | Instruction::UnpackList(_)
        | Instruction::UnpackLists(_)
        | Instruction::Iterate(_)
        | Instruction::FastRecurse => Verdict::Passes,
        // Arguments with names are paid for where they arrive.
        Instruction::BuildKwargs(_) | Instruction::MergeKwargs(_) => Verdict::Passes,
        // These move values, remember them under a name, or go to another place.
        Instruction::EmitRaw(_)
        | Instruction::StoreLocal(_)
        | Instruction::Lookup(_)
        | Instruction::SetAttr(_)
        | Instruction::LoadConst(_)
        | Instruction::PushLoop(_)
        | Instruction::PushWith
        | Instruction::PushDidNotIterate
        | Instruction::PopFrame
        | Instruction::PopLoopFrame
        | Instruction::Jump(_)
        | Instruction::JumpIfFalse(_)
        | Instruction::JumpIfFalseOrPop(_)
        | Instruction::JumpIfTrueOrPop(_)
        | Instruction::PushAutoEscape
        | Instruction::PopAutoEscape
        | Instruction::BeginCapture(_)
        | Instruction::EndCapture
        | Instruction::DupTop
        | Instruction::DiscardTop
        | Instruction::Swap
        | Instruction::BuildMacro(..)
        | Instruction::Return
        | Instruction::IsUndefined
        | Instruction::Enclose(_)
        | Instruction::GetClosure => Verdict::Passes,
        // There is no other template that it could take a part of.
        Instruction::FastSuper
        | Instruction::CallBlock(_)
        | Instruction::LoadBlocks
        | Instruction::Include(_)
        | Instruction::ExportLocals => Verdict::Refused(
            "it has blocks or asks for other templates (block, extends, include, import); write all of it in one",
        ),
    }
}

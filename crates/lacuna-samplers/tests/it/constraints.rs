//! Holds constrained decoding to its promise over random automata and models: a text that ended is one that the automaton
//! accepts, whatever order its positions are filled in.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::laws::requests;
use crate::scripted::{EOS, MASK, Scripted, VOCAB, go_on};
use lacuna_samplers::trace::{Line, Trace};
use lacuna_samplers::{
    ByteAutomaton, Constraint, Drafter, Drafting, Event, FillRule, FinishReason, Guidance, Request,
    View, Vocabulary, generate, generate_with,
};
use proptest::prelude::*;

/// An automaton over the letters a, b and c, by state: where each leads to, and whether a text may end there.
type Table = Vec<([Option<usize>; 3], bool)>;

fn tables() -> impl Strategy<Value = Table> {
    (1usize..8).prop_flat_map(|states| {
        let row = prop::array::uniform3(prop::option::weighted(0.7, 0..states));
        prop::collection::vec((row, prop::bool::weighted(0.3)), states)
    })
}

fn automaton(table: &Table) -> ByteAutomaton {
    let next = |state: usize, byte: u8| {
        table[state].0.get(usize::from(byte.checked_sub(b'a')?)).copied().flatten()
    };
    ByteAutomaton::explore(0, next, |state| table[state].1).unwrap()
}

/// Strings for the tokens; MASK and the end of text are none.
fn vocabularies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let strings = prop::collection::vec(prop::collection::vec(b'a'..=b'c', 1..4), VOCAB);
    strings.prop_map(|mut strings| {
        strings[MASK as usize].clear();
        strings[EOS as usize].clear();
        strings
    })
}

fn constrained(request: Request) -> Request {
    let (eos_ids, stop_ids) = (vec![EOS], Vec::new());
    Request { eos_ids, stop_ids, min_new_tokens: 0, ..request }
}

fn lines(lines: &mut Vec<Line>) -> impl FnMut(Event<'_>) -> ControlFlow<usize> {
    |event| {
        lines.push(event.into());
        ControlFlow::Continue(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn what_ended_is_accepted_and_what_was_cut_off_can_go_on(
        table in tables(), strings in vocabularies(), request in requests(), causal in any::<bool>(),
        seed in any::<u64>(), eos_percent in 0u64..30, drafted in any::<bool>(),
        row_cost in prop_oneof![Just(1e-3), Just(0.1)], longer in 0usize..40,
    ) {
        let automaton = automaton(&table);
        let vocabulary = Arc::new(Vocabulary::new(strings.clone()));
        let Ok(constraint) = Constraint::new(automaton.clone(), vocabulary, &[EOS]) else {
            return Ok(());
        };
        let constraint = Arc::new(constraint);
        let mut request = constrained(request);
        request.max_new_tokens += longer;
        if causal && !request.prompt.is_empty() {
            request.view = View::Causal;
        }
        let model = Scripted::new(seed).with_eos(eos_percent).with_mask(10);
        let guidance = Guidance { drafter: None, constraint: Some(constraint) };
        let mut trace = vec![Line::header(0, &request).with_constraint("a table")];
        let mut plain = model.clone();
        let written =
            generate_with(&mut plain, request.clone(), guidance.clone(), lines(&mut trace)).unwrap();
        prop_assert!(plain.is_clean());
        let text = |tokens: &[u32]| -> Vec<u8> {
            tokens.iter().flat_map(|token| strings[*token as usize].clone()).collect()
        };
        let text = text(written.text_tokens());
        match written.finish {
            FinishReason::Eos => prop_assert!(automaton.accepts(&text), "{:?}", text),
            _ => {
                prop_assert_eq!(written.finish, FinishReason::Length);
                prop_assert_eq!(written.text_len, request.max_new_tokens);
                // The beginning of a text that is accepted: some state is left.
                let state = text.iter().try_fold(0, |state: usize, byte| {
                    table[state].0[usize::from(byte - b'a')]
                });
                prop_assert!(state.is_some());
            }
        }
        prop_assert!(written.text_tokens().iter().all(|token| !strings[*token as usize].is_empty()));

        // The trace of it replays.
        trace.push(Line::end(&written));
        let replayed = Trace { lines: trace.clone() }.replay().unwrap();
        prop_assert_eq!(&replayed[0].tokens, &written.tokens);

        // Drafts change nothing under a rule either.
        if drafted {
            let limits = Drafting { row_cost, ..Drafting::default() };
            let drafter = Some(Drafter::lookup(&[], limits).unwrap());
            let mut again = vec![trace[0].clone()];
            let guidance = Guidance { drafter, ..guidance };
            let with = generate_with(&mut model.clone(), request, guidance, lines(&mut again)).unwrap();
            prop_assert_eq!(with.forwards + with.drafts.passes_saved, written.forwards);
            again.push(Line::end(&with));
            prop_assert_eq!(again, trace);
        }
    }

    #[test]
    fn a_rule_that_allows_everything_changes_nothing(
        request in requests(), causal in any::<bool>(), seed in any::<u64>(), eos_percent in 0u64..20,
        strings in vocabularies(),
    ) {
        let mut request = constrained(request);
        if causal && !request.prompt.is_empty() {
            request.view = View::Causal;
        }
        let all = ByteAutomaton::explore(0, |_, _| Some(0), |_| true).unwrap();
        let vocabulary = Arc::new(Vocabulary::new(strings));
        let constraint = Arc::new(Constraint::new(all, vocabulary, &[EOS]).unwrap());
        let model = Scripted::new(seed).with_eos(eos_percent).with_mask(10);
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        let free = generate(&mut model.clone(), request.clone(), lines(&mut expected)).unwrap();
        let guidance = Guidance { drafter: None, constraint: Some(constraint) };
        let held = generate_with(&mut model.clone(), request, guidance, lines(&mut found)).unwrap();
        prop_assert_eq!(held, free);
        prop_assert_eq!(found, expected);
    }
}

/// The automaton of one text, over tokens of which each is a letter.
fn only(text: &'static [u8]) -> Arc<Constraint> {
    let next = move |state: usize, byte: u8| (text.get(state) == Some(&byte)).then_some(state + 1);
    let automaton = ByteAutomaton::explore(0, next, move |state| state == text.len()).unwrap();
    let letters = (0..VOCAB as u8).map(|id| match u32::from(id) {
        MASK | EOS => Vec::new(),
        _ => vec![b'a' + id],
    });
    Arc::new(Constraint::new(automaton, Arc::new(Vocabulary::new(letters)), &[EOS]).unwrap())
}

fn held_to(constraint: Arc<Constraint>) -> Guidance {
    Guidance { constraint: Some(constraint), ..Guidance::default() }
}

#[test]
fn one_text_is_written_whatever_the_model_wants_and_at_once_where_a_rule_fills_all() {
    let four = 4.try_into().unwrap();
    let expected: Vec<u32> = b"habit".iter().map(|letter| u32::from(letter - b'a')).collect();
    for fill in [
        FillRule::LowConfidence,
        FillRule::Random,
        FillRule::Margin,
        FillRule::Threshold { tau: 0.0 },
    ] {
        for seed in 0..20 {
            let request =
                Request { fill, eos_ids: vec![EOS], ..Request::new(vec![7, 8, 9], 12, four, MASK) };
            let guidance = held_to(only(b"habit"));
            let mut model = Scripted::new(seed).with_sureness(100);
            let written = generate_with(&mut model, request, guidance, go_on).unwrap();
            assert_eq!(written.text_tokens(), expected, "{fill}");
            assert_eq!(written.finish, FinishReason::Eos);
            if fill == (FillRule::Threshold { tau: 0.0 }) {
                assert_eq!(written.forwards, 3, "every position of a block has one token left");
            }
        }
    }
}

#[test]
fn a_text_that_is_cut_off_says_so() {
    let request =
        Request { eos_ids: vec![EOS], ..Request::new(vec![], 3, 4.try_into().unwrap(), MASK) };
    let written =
        generate_with(&mut Scripted::new(1), request, held_to(only(b"habit")), go_on).unwrap();
    assert_eq!((written.finish, written.text_len), (FinishReason::Length, 3));
}

#[test]
fn a_rule_and_a_request_that_end_otherwise_are_refused() {
    let request = Request::new(vec![], 8, 4.try_into().unwrap(), MASK);
    let refused = |request: Request| {
        let result = generate_with(&mut Scripted::new(1), request, held_to(only(b"habit")), go_on);
        result.unwrap_err().to_string()
    };
    assert!(refused(request.clone()).contains("those of the constraint, [2]"));
    let ends = Request { eos_ids: vec![EOS], ..request };
    let least = refused(Request { min_new_tokens: 2, ..ends });
    assert!(least.contains("min_new_tokens is 2"), "{least}");
}

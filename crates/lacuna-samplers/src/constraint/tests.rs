//! Compares what may stand at masked positions with every filling there is.

use super::*;
use proptest::prelude::*;

const END: u32 = 0;

/// A random automaton over the letters a, b and c, and a vocabulary of some of their strings. Token 0 is the end, 1 is no
/// text.
#[derive(Clone, Debug)]
struct Case {
    next: Vec<[Option<usize>; 3]>,
    accepting: Vec<bool>,
    tokens: Vec<Vec<u8>>,
}

prop_compose! {
    fn cases()(states in 1usize..6)(
        next in prop::collection::vec(prop::array::uniform3(prop::option::weighted(0.7, 0..states)), states),
        accepting in prop::collection::vec(prop::bool::weighted(0.3), states),
        tokens in prop::collection::vec(prop::collection::vec(b'a'..=b'c', 1..4), 1..7),
    ) -> Case {
        Case { next, accepting, tokens: [vec![vec![], vec![]], tokens].concat() }
    }
}

impl Case {
    fn automaton(&self) -> ByteAutomaton {
        let next = |state: usize, byte: u8| {
            self.next[state].get(usize::from(byte.checked_sub(b'a')?)).copied().flatten()
        };
        ByteAutomaton::explore(0, next, |state| self.accepting[state]).unwrap()
    }

    fn constraint(&self) -> Option<Constraint> {
        let vocabulary = Arc::new(Vocabulary::new(self.tokens.clone()));
        Constraint::new(self.automaton(), vocabulary, &[END]).ok()
    }

    /// The state of the case behind some tokens.
    fn walk(&self, state: usize, token: u32) -> Option<usize> {
        let bytes = &self.tokens[token as usize];
        let step = |state: usize, byte: &u8| self.next[state][usize::from(byte - b'a')];
        (!bytes.is_empty()).then(|| bytes.iter().try_fold(state, step)).flatten()
    }

    /// The states from which tokens lead to an accepting one.
    fn live(&self) -> Vec<bool> {
        let mut live = self.accepting.clone();
        for _ in 0..live.len() {
            for state in 0..live.len() {
                let tokens = 0..self.tokens.len() as u32;
                let mut targets = tokens.filter_map(|token| self.walk(state, token));
                live[state] |= targets.any(|target| live[target]);
            }
        }
        live
    }

    /// Tells whether a block is the beginning of an allowed text, or one with its end in it.
    fn allows(&self, live: &[bool], block: &[u32]) -> bool {
        let mut state = 0;
        for token in block {
            if *token == END {
                return self.accepting[state];
            }
            match self.walk(state, *token) {
                Some(next) => state = next,
                None => return false,
            }
        }
        live[state]
    }
}

/// Every way to fill the masked positions.
fn fillings(slots: &[Option<u32>], tokens: u32) -> Vec<Vec<u32>> {
    slots.iter().fold(vec![Vec::new()], |all, slot| {
        let choices: Vec<u32> = slot.map_or((0..tokens).collect(), |token| vec![token]);
        let longer = |one: &Vec<u32>| {
            let one = one.clone();
            choices.iter().map(move |token| [&one[..], &[*token]].concat()).collect::<Vec<_>>()
        };
        all.iter().flat_map(longer).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_token_is_allowed_if_and_only_if_some_filling_of_the_others_is(
        case in cases(), picks in prop::collection::vec((0usize..4, any::<u32>()), 0..4), size in 1usize..5,
    ) {
        let live = case.live();
        let Some(constraint) = case.constraint() else {
            prop_assert!(!live[0]);
            return Ok(());
        };
        let tokens = case.tokens.len() as u32;
        let mut slots = vec![None; size];
        for step in 0..=picks.len() {
            let all: Vec<Vec<u32>> =
                fillings(&slots, tokens).into_iter().filter(|one| case.allows(&live, one)).collect();
            prop_assert!(!all.is_empty(), "what is filled can always be completed");
            prop_assert!(constraint.can_hold(0, &slots));
            let masks = constraint.masks(0, &slots);
            let holes: Vec<usize> = (0..size).filter(|at| slots[*at].is_none()).collect();
            prop_assert_eq!(masks.len(), holes.len());
            let mut allowed = Vec::new();
            for (at, mask) in holes.iter().zip(&masks) {
                let Some(mask) = mask else {
                    // A text that has ended before, whatever is filled in.
                    let over = |one: &Vec<u32>| one[..*at].contains(&END);
                    prop_assert!(all.iter().all(over));
                    continue;
                };
                for token in 0..tokens {
                    // Behind an end nothing counts; but there the end is all that is offered.
                    let found = all.iter().any(|one| {
                        one[*at] == token && (token == END || !one[..*at].contains(&END))
                    });
                    prop_assert_eq!(mask.holds(token as usize), found, "token {} at {}", token, at);
                    if found {
                        allowed.push((*at, token));
                    }
                }
            }
            let Some((_, pick)) = picks.get(step).filter(|_| !allowed.is_empty()) else { break };
            let (at, token) = allowed[*pick as usize % allowed.len()];
            slots[at] = Some(token);
        }
    }

    #[test]
    fn a_vocabulary_reads_every_token_as_the_automaton_does(case in cases()) {
        let (automaton, vocabulary) = (case.automaton(), Vocabulary::new(case.tokens.clone()));
        for state in 0..automaton.next.len() as u32 {
            let mut found = Vec::new();
            vocabulary.read(&automaton, state, |id, target| found.push((id, target)));
            found.sort_unstable();
            let expected: Vec<(u32, u32)> = (0u32..)
                .zip(&case.tokens)
                .filter(|(_, bytes)| !bytes.is_empty())
                .filter_map(|(id, bytes)| Some((id, automaton.walk(state, bytes)?)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn all_bytes_as_tokens_give_the_same_as_looking_at_tokens() {
    let accepts_ab_or_abc = |text: &[u8]| text == b"ab" || text == b"abc";
    let next = |state: usize, byte: u8| (b"abcx".get(state) == Some(&byte)).then_some(state + 1);
    // `abcx` leads on, and nowhere.
    let automaton = ByteAutomaton::explore(0, next, |state| state == 2 || state == 3).unwrap();
    assert!(accepts_ab_or_abc(b"ab") && automaton.accepts(b"ab") && automaton.accepts(b"abc"));
    assert!(!automaton.accepts(b"a") && !automaton.accepts(b"abcx"));
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let more = [vec![], b"bc".to_vec(), b"cx".to_vec(), b"abcx".to_vec()];
    let all: Vec<Vec<u8>> = bytes.chain(more).collect();
    let end = 256;
    let constraint = |tokens: Vec<Vec<u8>>| {
        Constraint::new(automaton.clone(), Arc::new(Vocabulary::new(tokens)), &[end]).unwrap()
    };
    let mut without = all.clone();
    without[0] = Vec::new();
    let (fast, slow) = (constraint(all), constraint(without));
    assert!(fast.by_bytes && !slow.by_bytes);
    for slots in
        [vec![None; 3], vec![None, Some(u32::from(b'b')), None], vec![None, Some(257), None]]
    {
        assert_eq!(fast.masks(0, &slots), slow.masks(0, &slots), "{slots:?}");
    }
    let dead = u32::from(b'x');
    assert_eq!((fast.behind(3, &[dead]), slow.behind(3, &[dead])), (None, None));
}

#[test]
fn an_automaton_that_accepts_nothing_is_refused() {
    let automaton = ByteAutomaton::explore(0, |_, _| Some(0), |_| false).unwrap();
    let vocabulary = Arc::new(Vocabulary::new([vec![], b"a".to_vec()]));
    let refused = Constraint::new(automaton.clone(), Arc::clone(&vocabulary), &[END]).unwrap_err();
    assert!(refused.to_string().contains("some text matches"), "{refused}");
    let refused = Constraint::new(automaton, vocabulary, &[]).unwrap_err();
    assert!(refused.to_string().contains("end-of-text"), "{refused}");
    let endless = ByteAutomaton::explore(0u32, |state, _| Some(state + 1), |_| true).unwrap_err();
    assert!(endless.to_string().contains("at most 20000"), "{endless}");
}

//! Shows by example what ends a request, what is refused, and the released algorithm's faults.

use crate::scripted::go_on;
use crate::scripted::size;
use std::ops::ControlFlow;

use crate::scripted::{Broken, EOS, MASK, Scripted};
use lacuna_samplers::reference::{self, Settings};
use lacuna_samplers::{
    Denoiser, Error, Event, FillRule, FinishReason, Request, Segment, View, generate,
};

/// Knows a text by heart: at position p it is sure of `text[p]`, surest on the right.
struct Recites {
    text: Vec<u32>,
    committed: usize,
    commits: usize,
}

impl Recites {
    fn new(text: &[u32]) -> Self {
        Self { text: text.to_vec(), committed: 0, commits: 0 }
    }
}

impl Denoiser for Recites {
    type Error = Broken;

    fn prefill(&mut self, _: usize, tokens: &[u32], _: View) -> Result<(), Broken> {
        self.committed = tokens.len();
        Ok(())
    }

    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Broken> {
        for offset in segments[0].rows {
            let mut row = vec![0f32; 16];
            row[self.text[self.committed + offset] as usize] = 5.0 + *offset as f32;
            read(&row);
        }
        Ok(())
    }

    fn commit(&mut self, _: usize, block: &[u32]) -> Result<(), Broken> {
        self.committed += block.len();
        self.commits += 1;
        Ok(())
    }

    fn release(&mut self, _: usize) {
        self.committed = 0;
    }
}

fn request(prompt: &[u32], max_new_tokens: usize, fill: FillRule) -> Request {
    Request {
        fill,
        eos_ids: vec![EOS],
        ..Request::new(prompt.to_vec(), max_new_tokens, size(4), MASK)
    }
}

#[test]
fn after_eos_its_block_becomes_eos() {
    let mut model = Recites::new(&[7, 8, 9, 6, EOS, 7, 7, 7, 7]);
    let request = request(&[7, 8], 30, FillRule::Threshold { tau: 0.0 });
    let generation = generate(&mut model, request, go_on).unwrap();
    assert_eq!(generation.tokens, [9, 6, EOS, EOS, EOS, EOS]);
    assert_eq!(generation.text_tokens(), [9, 6]);
    assert_eq!((generation.finish, generation.forwards), (FinishReason::Eos, 2));
    assert_eq!(model.commits, 1);
}

#[test]
fn eos_ends_the_request_as_soon_as_nothing_before_it_is_open() {
    // Left to right: eos at offset 1 of the second block is known after two of four refinements.
    let mut model = Recites::new(&[7, 8, 9, 6, 11, EOS, 7, 7]);
    let generation = generate(&mut model, request(&[], 30, FillRule::LeftToRight), go_on).unwrap();
    assert_eq!(generation.tokens, [7, 8, 9, 6, 11, EOS, EOS, EOS]);
    assert_eq!(generation.forwards, 6);
    // Right to left (the surest first) it is open until the end: another token might be eos too.
    let mut model = Recites::new(&[7, 8, 9, 6, 11, EOS, 7, 7]);
    let generation =
        generate(&mut model, request(&[], 30, FillRule::LowConfidence), go_on).unwrap();
    assert_eq!(generation.tokens, [7, 8, 9, 6, 11, EOS, EOS, EOS]);
    assert_eq!(generation.forwards, 8);
}

#[test]
fn an_eos_in_the_prompt_is_text() {
    let mut model = Recites::new(&[EOS, EOS, 9, 6, 11, 12]);
    let generation =
        generate(&mut model, request(&[EOS, EOS], 4, FillRule::LowConfidence), go_on).unwrap();
    assert_eq!(generation.tokens, [9, 6, 11, 12]);
    assert_eq!(generation.finish, FinishReason::Length);
}

#[test]
fn no_eos_before_the_least_number_of_tokens() {
    let text = [EOS; 12];
    for least in 0..=8 {
        let request = Request {
            min_new_tokens: least,
            ..request(&[7, 7, 7], 8, FillRule::Threshold { tau: 0.5 })
        };
        let generation = generate(&mut Recites::new(&text), request, go_on).unwrap();
        assert_eq!(generation.text_len, least);
        assert!(!generation.text_tokens().contains(&EOS));
        let expected = if least == 8 { FinishReason::Length } else { FinishReason::Eos };
        assert_eq!(generation.finish, expected);
    }
}

#[test]
fn the_length_is_not_tied_to_the_block_size() {
    let text: Vec<u32> = (0..16).map(|i| 6 + i % 10).collect();
    for prompt_len in 0..6 {
        for length in 1..10 {
            let request = request(&text[..prompt_len], length, FillRule::LowConfidence);
            let generation = generate(&mut Recites::new(&text), request, go_on).unwrap();
            assert_eq!(generation.tokens, &text[prompt_len..prompt_len + length]);
            assert_eq!((generation.finish, generation.forwards), (FinishReason::Length, length));
        }
    }
}

#[test]
fn a_block_that_is_longer_than_the_new_text_has_no_more_steps_than_were_asked_for() {
    let text: Vec<u32> = (6..14).collect();
    for (steps, passes) in [(1, 1), (3, 3), (8, 8), (20, 8)] {
        let canvas = View::Blocks { block_size: size(11) };
        let asked = Request {
            view: canvas,
            steps: std::num::NonZeroUsize::new(steps),
            ..request(&text[..3], 8, FillRule::LowConfidence)
        };
        let whole = [&text[..3], &text[..]].concat();
        let generation = generate(&mut Recites::new(&whole), asked, go_on).unwrap();
        assert_eq!((generation.tokens, generation.forwards), (text.clone(), passes), "{steps}");
    }
}

#[test]
fn a_stop_id_ends_the_text_and_is_no_part_of_it() {
    let request =
        Request { stop_ids: vec![9], ..request(&[], 12, FillRule::Threshold { tau: 0.0 }) };
    let mut model = Recites::new(&[7, 8, 6, 6, 7, 9, 8, EOS, 7, 7, 7, 7]);
    let generation = generate(&mut model, request, go_on).unwrap();
    assert_eq!(generation.tokens, [7, 8, 6, 6, 7, 9]);
    assert_eq!((generation.finish, generation.text_len), (FinishReason::Stop, 5));
}

#[test]
fn an_observer_ends_a_request_across_a_block_border() {
    // The text to stop at is "6 7", whose 6 ends the first block.
    let mut model = Recites::new(&[9, 8, 9, 6, 7, 8, 9, 9, 8, 8, 8, 8]);
    let observer = |event: Event<'_>| match event {
        Event::Block(block) => match block.generated.windows(2).position(|w| w == [6, 7]) {
            Some(at) => ControlFlow::Break(at),
            None => ControlFlow::Continue(()),
        },
        Event::Refinement(_) => ControlFlow::Continue(()),
    };
    let generation =
        generate(&mut model, request(&[], 12, FillRule::LowConfidence), observer).unwrap();
    assert_eq!(generation.tokens, [9, 8, 9]);
    assert_eq!((generation.finish, generation.text_len), (FinishReason::Stop, 3));
    assert_eq!((generation.forwards, generation.blocks, model.commits), (8, 2, 1));

    // Ending in the middle of a block keeps at most the finished ones.
    let mut model = Recites::new(&[9; 12]);
    let mut passes = 0;
    let generation = generate(&mut model, request(&[], 12, FillRule::LowConfidence), |event| {
        passes += usize::from(matches!(event, Event::Refinement(_)));
        if passes == 6 { ControlFlow::Break(usize::MAX) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((generation.tokens.len(), generation.finish), (4, FinishReason::Stop));
}

#[test]
fn mask_ids_in_the_prompt_are_text_but_holes_to_the_released_code() {
    let text = [7, MASK, 8, 9, 6, 6, 6, 6];
    let prompt = &text[..3];
    let generation =
        generate(&mut Recites::new(&text), request(prompt, 4, FillRule::LowConfidence), go_on)
            .unwrap();
    assert_eq!(generation.tokens, [9, 6, 6, 6]);

    let sure_of_eleven = [7, 11, 8, 9, 6, 6, 6, 6];
    let settings = Settings::new(4, 4, MASK);
    let output =
        reference::generate(&mut Recites::new(&sure_of_eleven), prompt, &settings, go_on).unwrap();
    assert_eq!(output.ids, [7, 11, 8, 9, 6, 6, 6]);
}

#[test]
fn the_released_code_fills_in_mask_unless_forbidden() {
    let text = [7, MASK, 8, 9];
    let settings = Settings::new(4, 4, MASK);
    let output = reference::generate(&mut Recites::new(&text), &[], &settings, go_on).unwrap();
    // The third refinement fills MASK into position 1, which the fourth finds surest again.
    assert_eq!((&output.ids[..], output.masks_left), (&[MASK, MASK, 8, 9][..], 2));
    assert_eq!(output.nfe, 4);

    let settings = Settings { forbid_mask: true, ..settings };
    let output = reference::generate(&mut Recites::new(&text), &[], &settings, go_on).unwrap();
    assert_eq!((output.ids[1], output.masks_left, output.nfe), (0, 0, 5));

    let generation =
        generate(&mut Recites::new(&text), request(&[], 4, FillRule::LowConfidence), go_on)
            .unwrap();
    assert_eq!(generation.tokens, [7, 0, 8, 9]);
}

#[test]
fn the_released_code_says_how_many_masks_a_threshold_left() {
    let settings = Settings { steps: 4, threshold: Some(1.0), ..Settings::new(8, 4, MASK) };
    let error = reference::generate(&mut Scripted::new(1), &[7; 5], &settings, go_on).unwrap_err();
    let Error::MasksLeft { block_start: 4, left: 1, refinements: 2 } = error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("1 masks after 2 refinements"));

    // In the last block they are part of the result, and there is no commit.
    let settings =
        Settings { steps: 2, threshold: Some(1.0), forbid_mask: true, ..Settings::new(4, 4, MASK) };
    let output = reference::generate(&mut Scripted::new(1), &[7; 4], &settings, go_on).unwrap();
    assert_eq!((output.masks_left, output.nfe), (2, 2));

    // The default mode goes on until the block is full.
    let request =
        Request { eos_ids: vec![], ..request(&[7; 4], 4, FillRule::Threshold { tau: 1.0 }) };
    let generation = generate(&mut Scripted::new(1), request, go_on).unwrap();
    assert_eq!((generation.tokens.len(), generation.forwards), (4, 4));
}

#[test]
fn the_released_codes_shapes_are_required_in_reference_mode_only() {
    let refused = |settings: Settings| {
        reference::generate(&mut Scripted::new(1), &[], &settings, go_on).unwrap_err().to_string()
    };
    assert_eq!(
        refused(Settings::new(16, 32, MASK)),
        "gen_length is 16: expected a multiple of block_length, 32, of at least 1"
    );
    assert!(refused(Settings { steps: 3, ..Settings::new(16, 8, MASK) }).starts_with("steps is 3"));
    assert!(refused(Settings { steps: 0, ..Settings::new(16, 8, MASK) }).starts_with("steps is 0"));
    assert!(refused(Settings::new(0, 8, MASK)).starts_with("gen_length is 0"));
    assert!(refused(Settings::new(8, 0, MASK)).starts_with("block_length is 0"));
    let threshold = Some(f64::NAN);
    assert!(refused(Settings { threshold, ..Settings::new(8, 8, MASK) }).starts_with("threshold"));
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let good = request(&[7], 4, FillRule::LowConfidence);
    let refused =
        |request: Request| generate(&mut Scripted::new(1), request, go_on).unwrap_err().to_string();
    assert!(refused(Request { max_new_tokens: 0, ..good.clone() }).starts_with("max_new_tokens"));
    assert!(refused(Request { min_new_tokens: 5, ..good.clone() }).starts_with("min_new_tokens"));
    assert!(refused(Request { mask_id: EOS, ..good.clone() }).starts_with("mask_id"));
    assert!(
        refused(Request { max_new_tokens: usize::MAX, ..good.clone() })
            .starts_with("max_new_tokens")
    );
    let fill = FillRule::EntropyBounded { gamma: f64::NAN };
    assert!(refused(Request { fill, ..good }).starts_with("entropy-bounded is NaN"));
    for text in
        ["", "confident", "threshold=", "threshold=2", "factor=-1", "margin=1", "factor=inf"]
    {
        assert!(text.parse::<FillRule>().is_err(), "{text}");
    }
}

/// Reads out whatever rows it was given.
struct ReadsOut(Vec<Vec<f32>>);

impl Denoiser for ReadsOut {
    type Error = Broken;

    fn prefill(&mut self, _: usize, _: &[u32], _: View) -> Result<(), Broken> {
        Ok(())
    }
    fn denoise(&mut self, _: &[Segment<'_>], read: &mut dyn FnMut(&[f32])) -> Result<(), Broken> {
        self.0.iter().for_each(|row| read(row));
        Ok(())
    }
    fn commit(&mut self, _: usize, _: &[u32]) -> Result<(), Broken> {
        Err(Broken("the disk is on fire"))
    }
    fn release(&mut self, _: usize) {}
}

#[test]
fn a_broken_denoiser_is_an_error_and_no_panic() {
    let run = |rows: Vec<Vec<f32>>| {
        generate(&mut ReadsOut(rows), request(&[], 8, FillRule::Threshold { tau: 0.0 }), go_on)
    };
    let of = |value: f32, rows: usize, vocab: usize| vec![vec![value; vocab]; rows];
    for (rows, vocab, found) in [(0, 9, 0), (3, 9, 3), (5, 9, 5), (36, 1, 36), (4, 0, 0)] {
        let error = run(of(0.0, rows, vocab)).unwrap_err();
        let Error::Rows { expected: 4, found: said } = error else { panic!("{error}") };
        assert_eq!(said, found);
    }
    let one_empty = vec![vec![0.0; 9], vec![0.0; 9], vec![], vec![0.0; 9]];
    let error = run(one_empty).unwrap_err().to_string();
    assert_eq!(error, "a pass read out 2 rows of logits: expected 4, none of them empty");
    assert!(matches!(run(of(f32::NAN, 4, 9)), Err(Error::NotFinite { .. })));
    assert!(matches!(run(of(f32::INFINITY, 4, 9)), Err(Error::NotFinite { .. })));
    let nothing = run(of(f32::NEG_INFINITY, 4, 9));
    assert!(matches!(nothing, Err(Error::NothingAllowed { position: 0, .. })));
    let error = run(of(0.0, 4, 9)).unwrap_err();
    assert_eq!(error.to_string(), "a pass through the model failed");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().contains("fire"));
    assert_eq!(source.downcast_ref(), Some(&Broken("the disk is on fire")));
    let settings = Settings::new(4, 4, MASK);
    let broken = &mut ReadsOut(of(f32::NAN, 4, 9));
    let error = reference::generate(broken, &[], &settings, go_on).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }));
}

//! Ends every writer of the project at every operation, by a kill and by power cuts: what it writes
//! is the old whole thing or the new whole thing, a log has whole lines and at most a torn end, and
//! the writer's next run succeeds and leaves nothing behind.
//!
//! Writers are called as the program calls them. What the program writes with one call of `lacuna_files::write_file` (a
//! recipe, a page of a replay, logits) is one of these by way of the tokenizer.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use lacuna::checkpoint::Format;
use lacuna::data::{Dataset, Remainder, ShardFolders, ShardOptions, ShardWriter};
use lacuna::samplers::trace::{Line, Trace};
use lacuna::text::Tokenizer;
use lacuna::train::{
    Event, HeldOutPoint, MetricsWriter, Recipe, RunOptions, Sample, StepMetrics, read_held_out,
    read_metrics, run,
};
use lacuna::{ConvertOptions, GenerateOptions, Model, OpenOptions, Prompt, Resolved, TraceFile};
use lacuna_files::testing::{End, Ends, every_end};
use lacuna_files::{Manifest, WholeFile, replace_text_file};
use lacuna_test::fixtures;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn tiny() -> PathBuf {
    fixtures().join("golden/models/tiny_untied")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every path below a folder whose name begins with a dot.
fn hidden(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if name.starts_with('.') {
            found.push(path);
        } else if path.is_dir() {
            found.extend(hidden(&path));
        }
    }
    found
}

/// A folder to play on, filled by `fill`.
fn template(place: &tempfile::TempDir, fill: impl FnOnce(&Path)) -> PathBuf {
    let template = place.path().join("t");
    fs::create_dir(&template).unwrap();
    fill(&template);
    template
}

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).is_ok_and(|bytes| fs::read(other).is_ok_and(|others| bytes == others))
}

#[test]
fn a_converted_folder_is_the_old_or_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let write = |folder: &Path| {
        let options = ConvertOptions { force: true, ..ConvertOptions::default() };
        let _ = lacuna::convert(&tiny(), &folder.join("model"), &options, &|_, _| {});
    };
    let new = place.path().join("reference");
    fs::create_dir(&new).unwrap();
    write(&new);
    let old = template(&place, |folder| {
        let options = ConvertOptions {
            dtype: Some(lacuna::checkpoint::StorageDtype::BF16),
            ..ConvertOptions::default()
        };
        lacuna::convert(&tiny(), &folder.join("model"), &options, &|_, _| {}).unwrap();
    });
    let is = |folder: &Path, of: &Path| {
        let all = names(&of.join("model"));
        all.iter().all(|name| same(&folder.join("model").join(name), &of.join("model").join(name)))
    };
    every_end(&old, Ends::All(1), write, |end: &End| {
        let is_new = is(&end.folder, &new);
        assert!(is_new || (!end.finished && is(&end.folder, &old)), "{end}");
        Model::open(&end.folder.join("model"), &OpenOptions::default()).unwrap();
        if !is_new {
            write(&end.folder);
            assert!(is(&end.folder, &new), "{end}");
        }
        let manifest = Manifest::read(&end.folder.join("model")).unwrap().unwrap();
        manifest.verify(&end.folder.join("model")).unwrap();
        lacuna_files::remove_leftovers(&end.folder);
        assert_eq!(hidden(&end.folder), [""; 0].map(PathBuf::from), "{end}");
    });
}

#[test]
fn a_gguf_file_is_the_old_or_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let write = |folder: &Path| {
        let format = Some(Format::Gguf);
        let options = ConvertOptions { force: true, format, ..ConvertOptions::default() };
        let _ = lacuna::convert(&tiny(), &folder.join("m.gguf"), &options, &|_, _| {});
    };
    let new = place.path().join("reference");
    fs::create_dir(&new).unwrap();
    write(&new);
    let old = template(&place, |folder| fs::write(folder.join("m.gguf"), "old").unwrap());
    every_end(&old, Ends::All(1), write, |end| {
        let path = end.folder.join("m.gguf");
        let is_new = same(&path, &new.join("m.gguf"));
        assert!(is_new || (!end.finished && fs::read(&path).unwrap() == b"old"), "{end}");
        write(&end.folder);
        assert!(same(&path, &new.join("m.gguf")), "{end}");
        assert_eq!(names(&end.folder), ["m.gguf"], "{end}");
    });
}

#[test]
fn a_tokenizer_and_a_text_of_a_user_are_the_old_or_the_new_ones() {
    let place = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_file(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let write = |folder: &Path| {
        let _ = tokenizer.save(folder.join("new/tokenizer.json"));
        // `edit` and `fill --in-place`: whether it can be written is asked before.
        let code = folder.join("f.rs");
        let asked = WholeFile::beside(&code).map(drop);
        let _ = asked.and_then(|()| {
            replace_text_file(&code, &fs::read(&code).unwrap_or_default(), b"fn new() {}\n")
        });
    };
    let old = template(&place, |folder| {
        fs::create_dir(folder.join("new")).unwrap();
        fs::write(folder.join("f.rs"), "fn old() {}\n").unwrap();
    });
    every_end(&old, Ends::All(2), write, |end| {
        let text = fs::read_to_string(end.folder.join("f.rs")).unwrap();
        assert!(text == "fn new() {}\n" || (text == "fn old() {}\n" && !end.finished), "{end}");
        let written = end.folder.join("new/tokenizer.json");
        if end.finished || written.exists() {
            let read = Tokenizer::from_file(&written).unwrap();
            assert_eq!(read.fingerprint(), tokenizer.fingerprint(), "{end}");
        }
        write(&end.folder);
        assert_eq!(names(&end.folder), ["f.rs", "new"], "{end}");
        assert_eq!(names(&end.folder.join("new")), ["tokenizer.json"], "{end}");
    });
}

#[test]
fn a_packing_is_there_with_both_parts_or_is_none() {
    let place = tempfile::tempdir().unwrap();
    let pack = |folder: &Path| -> Result<(), lacuna::data::Error> {
        let options = ShardOptions {
            window_len: NonZeroUsize::new(4).unwrap(),
            remainder: Remainder::Drop,
            vocab_size: 100,
            tokenizer: "t".into(),
            shard_tokens: 8,
        };
        let folders = ShardFolders::begin(&folder.join("out"))?;
        let mut train = ShardWriter::create(folders.train(), options.clone())?;
        let mut held_out = ShardWriter::create(folders.held_out(), options)?;
        for document in 0..6u32 {
            train.push(&[document, 1, 2, 3], 9, 4)?;
            held_out.push(&[document, 5, 6, 7], 9, 4)?;
        }
        train.finish()?;
        held_out.finish()?;
        folders.publish(true).map(drop)
    };
    let old = template(&place, |_| {});
    let write = |folder: &Path| drop(pack(folder));
    every_end(&old, Ends::All(2), write, |end| {
        let part = |name: &str| end.folder.join("out").join(name);
        let whole = |name: &str| {
            let data = Dataset::open(part(name)).unwrap();
            data.verify().unwrap();
            assert!(data.windows() >= 6, "{end}: {name}");
        };
        if part("train").exists() || end.finished {
            whole("train");
            whole("held-out");
            return;
        }
        pack(&end.folder).unwrap();
        whole("train");
        whole("held-out");
        assert_eq!(hidden(&end.folder), [""; 0].map(PathBuf::from), "{end}");
    });
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        stage: "a".into(),
        loss: 3.0,
        loss_unweighted: 3.0,
        supervised: 1,
        grad_norm: 1.0,
        grad_norms: Default::default(),
        clipped_steps: 0,
        lr: 1e-3,
        tokens: step,
        tokens_per_second: 1.0,
        ..StepMetrics::default()
    }
}

#[test]
fn metrics_are_a_prefix_and_a_resumed_run_has_those_up_to_its_step() {
    let place = tempfile::tempdir().unwrap();
    // A checkpoint is taken after step 4, and the run goes on from there.
    let write = |folder: &Path| {
        let path = folder.join("metrics.jsonl");
        let (mut log, _) = MetricsWriter::open(&path, 2);
        (3..=4).for_each(|step| drop(log.write(&metrics(step))));
        log.sync();
        let _ = lacuna_files::write_file(&folder.join("checkpoint"), b"4");
        (5..=6).for_each(|step| drop(log.write(&metrics(step))));
    };
    let old = template(&place, |folder| {
        let (mut log, _) = MetricsWriter::open(&folder.join("metrics.jsonl"), 0);
        (1..=3).for_each(|step| drop(log.write(&metrics(step))));
    });
    every_end(&old, Ends::All(4), write, |end| {
        let path = end.folder.join("metrics.jsonl");
        let from = if end.folder.join("checkpoint").exists() { 4 } else { 2 };
        let (mut log, notices) = MetricsWriter::open(&path, from);
        assert_eq!(notices, [""; 0], "{end}");
        (from + 1..=6).for_each(|step| assert_eq!(log.write(&metrics(step)), None, "{end}"));
        let steps: Vec<_> = read_metrics(&path).unwrap().iter().map(|line| line.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6], "{end}");
    });
}

#[test]
fn a_trace_is_whole_lines_and_replays_as_far_as_it_goes() {
    let place = tempfile::tempdir().unwrap();
    let model = Model::open(&tiny(), &OpenOptions::default()).unwrap();
    let options = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
    let prompt = Prompt::Ids(vec![5, 6, 7]);
    let resolved = Resolved::new(&model, prompt.clone(), &options).unwrap();
    let header = resolved.trace_header().unwrap();
    let mut lines = Vec::new();
    let written =
        lacuna::generate(&model, prompt, &options, |event| lines.push(Line::from(event))).unwrap();
    let record = |folder: &Path| -> std::io::Result<()> {
        let mut trace = TraceFile::new(&folder.join("trace.jsonl"));
        trace.begin(&header)?;
        lines.iter().try_for_each(|line| trace.write(line.clone()))?;
        trace.end(&written)
    };
    let whole = place.path().join("reference");
    fs::create_dir(&whole).unwrap();
    record(&whole).unwrap();
    let whole = fs::read_to_string(whole.join("trace.jsonl")).unwrap();
    let old = template(&place, |folder| fs::write(folder.join("trace.jsonl"), "old\n").unwrap());
    every_end(
        &old,
        Ends::All(3),
        |folder| drop(record(folder)),
        |end| {
            let text = fs::read_to_string(end.folder.join("trace.jsonl")).unwrap();
            if text != "old\n" {
                let lines = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
                assert!(whole.starts_with(lines), "{end}: {text}");
                if !lines.is_empty() {
                    let replayed = Trace::parse(&text).unwrap().replay().unwrap();
                    assert!(written.tokens.starts_with(&replayed[0].tokens), "{end}");
                }
            }
            record(&end.folder).unwrap();
            assert_eq!(fs::read_to_string(end.folder.join("trace.jsonl")).unwrap(), whole, "{end}");
            assert_eq!(names(&end.folder), ["trace.jsonl"], "{end}");
        },
    );
}

/// A run of three steps in two stages, with a checkpoint after each.
fn recipe(place: &Path) -> Recipe {
    let corpus = place.join("corpus");
    fs::create_dir_all(&corpus).unwrap();
    for file in 0..4 {
        let text: String = (0..20)
            .map(|line| format!("def f{file}_{line}(a, b):\n    return a + b\n\n"))
            .collect();
        fs::write(corpus.join(format!("f{file}.py")), text).unwrap();
    }
    let text = format!(
        "name = 'p'\nseed = 1\nkeep_checkpoints = 1\ntensorboard = true\n\
         [model]\nhidden_size = 8\nintermediate_size = 8\nlayers = 1\nheads = 1\nkv_heads = 1\n\
         [data]\ntokenizer = {:?}\ncorpus = ['corpus']\nwindow = 16\nheld_out = 0.5\n\
         [[stage]]\nname = 'a'\nobjective = 'autoregressive'\nsteps = 1\nbatch_size = 1\n\
         learning_rate = 1e-3\ncheckpoint_every = 1\n\
         [[stage]]\nname = 'b'\nobjective = 'block-diffusion'\nblock_size = 4\nsteps = 2\nbatch_size = 1\n\
         learning_rate = 1e-3\ncheckpoint_every = 1\n\
         [optimizer]\nspike_z_score = 3.0\n\
         [evaluation]\nwindows = 1\nevaluate_every = 1\nsample_every = 1\nprompts = ['def']\n",
        fixtures().join("tokenizer/tokenizer.json").display().to_string(),
    );
    fs::write(place.join("recipe.toml"), text).unwrap();
    Recipe::load(&place.join("recipe.toml"), &[]).unwrap()
}

#[test]
fn a_run_that_is_ended_anywhere_ends_as_one_that_was_not() {
    let place = tempfile::tempdir().unwrap();
    let recipe = recipe(place.path());
    let train = |folder: &Path| {
        let stop = AtomicBool::new(false);
        let options = RunOptions { resume: true, ..RunOptions::new(folder.join("run"), &stop) };
        run(&recipe, &options, &mut |event| {
            if let Event::SamplesDue { step, written, .. } = event {
                let (text, trace) = (format!("after {step}"), format!("trace {step}\n"));
                *written = vec![Sample { text, trace, ..Sample::default() }];
            }
        })
        .map(drop)
    };
    let reference = place.path().join("reference");
    fs::create_dir(&reference).unwrap();
    train(&reference).unwrap();
    let steps = |run: &Path| -> Vec<(u64, f64)> {
        let lines = read_metrics(&run.join("metrics.jsonl")).unwrap();
        lines.iter().map(|line| (line.step, line.loss)).collect()
    };
    let scores =
        |run: &Path| -> Vec<HeldOutPoint> { read_held_out(&run.join("metrics.jsonl")).unwrap() };
    assert_eq!(scores(&reference.join("run")).len(), 5, "one measure, then two twice");
    let old = template(&place, |_| {});
    let count = every_end(
        &old,
        Ends::Turns,
        |folder| drop(train(folder)),
        |end| {
            let run = end.folder.join("run");
            // Whatever has a checkpoint's name is one.
            for dir in [run.join("checkpoints"), run.clone()] {
                if !dir.exists() {
                    continue;
                }
                for name in
                    names(&dir).iter().filter(|name| name.starts_with("step-") || *name == "final")
                {
                    let manifest = Manifest::read(&dir.join(name)).unwrap();
                    let removed = manifest.is_none() && names(&dir.join(name)).is_empty();
                    assert!(
                        removed || manifest.is_some_and(|m| m.verify(&dir.join(name)).is_ok()),
                        "{end}: {name}"
                    );
                }
            }
            train(&end.folder).unwrap_or_else(|error| panic!("{end}: {error}"));
            let weights = "run/final/model.safetensors";
            assert!(same(&end.folder.join(weights), &reference.join(weights)), "{end}");
            assert_eq!(steps(&run), steps(&reference.join("run")), "{end}");
            assert_eq!(scores(&run), scores(&reference.join("run")), "{end}");
            for name in ["run/samples.jsonl", "run/results.json"] {
                assert!(same(&end.folder.join(name), &reference.join(name)), "{end}: {name}");
            }
            let traces = names(&reference.join("run/samples"));
            assert_eq!(names(&run.join("samples")), traces, "{end}");
            // The packed corpus stays, for the next run.
            assert_eq!(hidden(&end.folder), [end.folder.join(".packed")], "{end}");
            assert_eq!(names(&run), names(&reference.join("run")), "{end}");
        },
    );
    assert!(count > 50, "{count}");
}

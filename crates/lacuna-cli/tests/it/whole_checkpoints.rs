//! Takes a checkpoint with all its files through fine-tuning and conversion: it can be conversed
//! with afterwards.

use crate::support::lacuna;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
#[cfg(unix)]
use std::process::{Command, Stdio};

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied")
}

fn done(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Takes the last tokens out of a tokenizer, so that their rows are free.
fn without_tokens_from(first: u64, path: &Path) {
    let mut tokenizer = read(path);
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < first);
    let known: std::collections::BTreeSet<String> = vocab.keys().cloned().collect();
    let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|merge| {
        let [a, b] = [0, 1].map(|part| merge[part].as_str().unwrap());
        [a.to_owned(), b.to_owned(), format!("{a}{b}")].iter().all(|token| known.contains(token))
    });
    fs::write(path, tokenizer.to_string()).unwrap();
}

/// The tiny model with a ChatML template whose marks only `added_tokens_decoder` names, code of its own, a licence
/// and settings for sampling.
fn instruct(folder: &Path) -> PathBuf {
    let model = folder.join("instruct");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let rows = read(&model.join("config.json"))["vocab_size"].as_u64().unwrap();
    let next = rows - 2;
    without_tokens_from(next, &model.join("tokenizer.json"));
    let token = |text: &str| {
        json!({"content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    };
    let mut config = read(&model.join("tokenizer_config.json"));
    config["added_tokens_decoder"] = json!({ next.to_string(): token("<|im_start|>"), (next + 1).to_string(): token("<|im_end|>") });
    config["chat_template"] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
         {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
            .into();
    config["auto_map"] = json!({"AutoTokenizer": ["own.Own", null]});
    fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    let mut generation = read(&model.join("generation_config.json"));
    generation["do_sample"] = true.into();
    generation["temperature"] = 0.5.into();
    fs::write(model.join("generation_config.json"), generation.to_string()).unwrap();
    fs::write(model.join("own.py"), "class Own: pass\n").unwrap();
    fs::write(model.join("LICENSE"), "Do as you like.\n").unwrap();
    fs::write(model.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
    model
}

const LINES: &str = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho ho"}]}
{"messages":[{"role":"user","content":"1+1"},{"role":"assistant","content":null,"tool_calls":[{"name":"add"}]},{"role":"tool","content":"2"},{"role":"assistant","content":"2"}]}
"#;

fn recipe(folder: &Path, from: &str, sft: &str) -> String {
    fs::create_dir_all(folder.join("src")).unwrap();
    for i in 0..30 {
        let text = format!("def f{i}(x):\n    return x + {i} * 7\n\n\n");
        fs::write(folder.join(format!("src/f{i}.py")), text.repeat(4)).unwrap();
    }
    fs::write(folder.join("chat.jsonl"), LINES).unwrap();
    let path = folder.join("recipe.toml");
    let text = format!(
        "name = \"chat\"\nseed = 1\n[model]\n{from}\n[data]\ncorpus = [\"src\"]\nwindow = 32\ntokenizer = {}\n\
         [sft]\nsamples = [\"chat.jsonl\"]\n{sft}\n[evaluation]\nwindows = 0\n[[stage]]\nname = \"sft\"\n\
         objective = \"block-diffusion\"\nblock_size = 4\ndata = \"sft\"\nsteps = 2\nbatch_size = 2\n\
         learning_rate = 1e-4\n",
        json!(tiny().join("tokenizer.json"))
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A model from nothing, with the tokenizer's own name of MASK.
const SIZES: &str = "hidden_size = 32\nintermediate_size = 64\nlayers = 1\nheads = 2\nmask_token = '<[MASK▁TOKEN]>'";

#[test]
fn a_fine_tuned_model_has_all_files_of_the_one_it_came_from_and_chats() {
    let folder = tempfile::tempdir().unwrap();
    let model = instruct(folder.path());
    let mut recipe = recipe(folder.path(), "from = \"instruct\"", "");
    // The model's own folder is the tokenizer, with the tokens that its other files name.
    let text = fs::read_to_string(&recipe).unwrap();
    let text = text.replace(&json!(tiny().join("tokenizer.json")).to_string(), "\"instruct\"");
    fs::write(&recipe, text).unwrap();
    recipe = folder.path().join("recipe.toml").display().to_string();
    let run = folder.path().join("run");
    done(&lacuna(&["train", &recipe, "--out", run.to_str().unwrap(), "--quiet"]));
    let newest = fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    for place in [run.join("final"), newest] {
        assert_eq!(fs::read_to_string(place.join("LICENSE")).unwrap(), "Do as you like.\n");
        assert!(place.join("README.md").exists() && place.join("special_tokens_map.json").exists());
        assert!(!place.join("own.py").exists(), "no code goes along");
        assert_eq!(read(&place.join("generation_config.json"))["temperature"], 0.5);
        let config = read(&place.join("tokenizer_config.json"));
        assert!(config.get("auto_map").is_none() && config["chat_template"].is_string());
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        let known = read(&place.join("tokenizer.json"))["added_tokens"].to_string();
        assert!(known.contains("<|im_end|>"), "tokenizer.json has the tokens of the other files");
        #[cfg(unix)]
        for entry in fs::read_dir(&place).unwrap() {
            use std::os::unix::fs::PermissionsExt;
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o644, "{}", entry.path().display());
        }
    }
    let last = run.join("final").display().to_string();
    let chat = ["chat", "--model", &last, "--json", "--max-new-tokens", "8"];
    let said: Value = serde_json::from_str(&done(&lacuna(&[&chat[..], &["hi"]].concat()))).unwrap();
    assert_eq!(
        [&said["sampling"]["temperature"], &said["sampling"]["top_k"]],
        [&json!(0.5), &json!(50)]
    );
    let greedy = done(&lacuna(&[&chat[..], &["--sampling", "greedy", "hi"]].concat()));
    let greedy: Value = serde_json::from_str(&greedy).unwrap();
    assert_eq!(greedy["sampling"]["temperature"], 0.0);

    // Into a GGUF file and back: the template, the tokens and the files of people stay.
    let (there, back) = (folder.path().join("m.gguf"), folder.path().join("back"));
    let (there, back) = (there.to_str().unwrap(), back.to_str().unwrap());
    done(&lacuna(&["convert", model.to_str().unwrap(), there]));
    done(&lacuna(&["convert", there, back]));
    let back = Path::new(back);
    assert!(!back.join("own.py").exists() && back.join("LICENSE").exists());
    assert!(read(&back.join("tokenizer_config.json")).get("auto_map").is_none());
    assert!(fs::read_to_string(back.join("tokenizer.json")).unwrap().contains("<|im_end|>"));
    for model in [there, back.to_str().unwrap()] {
        let trace = folder.path().join("trace.jsonl");
        let flags = ["--max-new-tokens", "4", "-q", "--trace", trace.to_str().unwrap(), "hi"];
        done(&lacuna(&[&["chat", "--model", model][..], &flags].concat()));
        let first = fs::read_to_string(trace).unwrap();
        let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
        let marks = first["settings"]["prompt"].as_array().unwrap().len();
        assert!(marks < 20, "the marks are ids and not letters: {first}");
    }
}

#[test]
fn a_model_from_nothing_says_how_it_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), SIZES, "");
    let run = folder.path().join("run");
    done(&lacuna(&["train", &recipe, "--out", run.to_str().unwrap(), "--quiet"]));
    let last = run.join("final");
    assert_eq!(
        read(&last.join("tokenizer_config.json"))["tokenizer_class"],
        "PreTrainedTokenizerFast"
    );
    assert!(read(&last.join("generation_config.json")).get("do_sample").is_none());
    assert!(fs::read_to_string(last.join("chat_template.jinja")).unwrap().contains("message.role"));
    let said =
        lacuna(&["chat", "--model", last.to_str().unwrap(), "-q", "--max-new-tokens", "4", "hi"]);
    done(&said);
}

#[test]
fn what_can_not_be_rendered_is_told_with_line_and_turn() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
                    {{ m.content }}{% endfor %}";
    fs::write(folder.path().join("own.jinja"), template).unwrap();
    let recipe = recipe(folder.path(), SIZES, "template = \"own.jinja\"");
    let run = folder.path().join("run");
    let ran = lacuna(&["train", &recipe, "--out", run.to_str().unwrap()]);
    // The other conversation is learnt.
    assert!(ran.status.success());
    let error = String::from_utf8_lossy(&ran.stderr);
    for words in ["chat.jsonl:2", "turn 2", "no tools"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn conversations_alone_are_enough_to_train_on_and_to_resume_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = recipe(folder.path(), SIZES, "");
    let text = fs::read_to_string(&path).unwrap().replace("corpus = [\"src\"]\n", "");
    fs::write(&path, &text).unwrap();
    let run = folder.path().join("a run");
    let train = |more: &[&str]| {
        let args = ["train", &path, "--out", run.to_str().unwrap(), "--quiet"];
        lacuna(&[&args[..], more].concat())
    };
    let said = done(&train(&[]));
    assert!(said.contains("try: lacuna chat --model '"), "a path of two words: {said}");
    let record = read(&run.join("run.json"));
    assert!(record["hashes"]["sft.samples"].is_string(), "{record}");
    assert!(record["hashes"].get("data.corpus").is_none(), "{record}");
    let longer = ["--resume", "--set", "stage.0.steps=3", "--accept-changes"];
    done(&train(&longer));
    // Other conversations are other data.
    fs::write(folder.path().join("chat.jsonl"), LINES.replace("add", "sub").repeat(2)).unwrap();
    let output = train(&["--resume", "--set", "stage.0.steps=4", "--accept-changes"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("sft.samples"), "{error}");
    // A stage on a corpus needs one.
    fs::write(&path, text.replace("data = \"sft\"\n", "")).unwrap();
    let output = train(&[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("data.corpus or data.shards"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_conversion_that_is_ended_by_a_signal_is_whole_or_not_there_and_says_nothing() {
    use std::os::unix::process::ExitStatusExt;
    use std::time::Instant;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let from =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/lacuna-5m/lacuna-5m-q8_0.gguf");
    let start = |out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        command
            .current_dir(root)
            .arg("convert")
            .arg(&from)
            .args([out, "--dtype", "f32", "--quiet"]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let names = |out: &str| {
        let entries = fs::read_dir(root.join(out)).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let began = Instant::now();
    assert!(start("whole").wait().unwrap().success());
    let (took, whole) = (began.elapsed(), names("whole"));
    // The moments about the end matter most: there a folder is synced and gets its name.
    for i in 0..40 {
        let child = start("out");
        std::thread::sleep(took.mul_f64(0.5 + f64::from(i) / 60.0));
        let id = child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &id]).status().unwrap();
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() || ended.status.signal() == Some(2), "{i}: {told}");
        assert_eq!(told, "", "{i}");
        if root.join("out").exists() {
            assert_eq!(names("out"), whole, "{i}");
            fs::remove_dir_all(root.join("out")).unwrap();
        } else {
            assert!(!ended.status.success(), "{i}: it says that it is done");
        }
        assert_eq!(names("."), ["whole"], "{i}");
    }
}

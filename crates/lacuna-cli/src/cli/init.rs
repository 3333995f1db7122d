//! `lacuna init` writes a recipe that runs as it stands, and says which commands run it.

use anyhow::{Context, Result};
use lacuna::checkpoint::{Mode, Weights};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Write a recipe to start from, and say which commands run it.
///
/// The recipe trains a small model from nothing on your text; with --from it goes on from a checkpoint, with --sft
/// it ends with a stage on conversations. Every line that you may want to change has a comment. Nothing is
/// overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna init --corpus src
  lacuna init my-model --corpus ~/code --extension py --extension rs
  lacuna init tuned --corpus src --from hf:HuggingFaceTB/SmolLM2-135M
  lacuna init tuned --corpus src --from M --sft conversations.jsonl")]
pub(crate) struct Args {
    /// The folder for the recipe, made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Text to learn: source trees, text files, .jsonl[.gz|.zst], .tar.gz; may be repeated
    #[arg(long, value_name = "PATH", required = true)]
    corpus: Vec<PathBuf>,
    /// Only files with these endings; may be repeated; default: all text
    #[arg(long, value_name = "EXT")]
    extension: Vec<String>,
    /// The checkpoint to go on from: a folder, a .gguf file, or hf:OWNER/NAME[@REVISION]
    #[arg(long, value_name = "M")]
    from: Option<PathBuf>,
    /// Conversations to fine-tune on: .jsonl with {"messages": […]} a line; may be repeated
    #[arg(long, value_name = "FILE")]
    sft: Vec<PathBuf>,
    /// The tokenizer.json to use; default: the checkpoint's, else a new one for the corpus
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    tokenizer: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let recipe = args.folder.join("recipe.toml");
    if recipe.symlink_metadata().is_ok() {
        anyhow::bail!(
            "{} is there already and stays as it is; name another folder",
            recipe.display()
        );
    }
    for path in args.corpus.iter().chain(&args.sft).chain(&args.tokenizer) {
        path.metadata().with_context(|| path.display().to_string())?;
    }
    let start = args.from.as_deref().map(Start::of).transpose()?;
    lacuna_files::create_folder(&args.folder).with_context(|| args.folder.display().to_string())?;
    let folder = args.folder.canonicalize().with_context(|| args.folder.display().to_string())?;
    let place = |path: &Path| place(path, &folder);
    let text = recipe_text(args, start.as_ref(), &place)?;
    lacuna_files::write_file(&recipe, text.as_bytes())?;
    out!("{}", recipe.display());
    note!("\nnow run, in this order:");
    for command in commands(args, start.as_ref(), &recipe) {
        note!("  {command}");
    }
    Ok(())
}

/// The checkpoint that another one is made into before it is trained on.
struct Start {
    from: PathBuf,
    /// Tells whether it has to be converted: it is not here, is no folder, or predicts the next
    /// token.
    converted: bool,
    positions: usize,
}

impl Start {
    fn of(from: &Path) -> Result<Self> {
        // A model on the hub is not fetched to write a recipe.
        if from.to_str().is_some_and(|name| name.starts_with("hf:")) {
            return Ok(Self { from: from.to_owned(), converted: true, positions: usize::MAX });
        }
        let weights = Weights::inspect(from)?;
        let config = weights.config();
        let diffusion = matches!(config.mode, Mode::BlockDiffusion { .. });
        let whole = from.is_dir() && from.join("tokenizer.json").exists();
        let positions = config.max_position_embeddings;
        Ok(Self { from: from.to_owned(), converted: !(diffusion && whole), positions })
    }
}

/// A path as the recipe says it: inside of its folder relative to that, else absolute.
fn place(path: &Path, folder: &Path) -> Result<String> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let inner = path.strip_prefix(folder).ok().filter(|inner| !inner.as_os_str().is_empty());
    let text = inner.unwrap_or(&path).to_str().with_context(|| {
        format!("{}: a recipe is text, and this name is none; rename it", path.display())
    })?;
    // Quoted as TOML has it.
    Ok(serde_json::to_string(text)?)
}

fn recipe_text(
    args: &Args,
    start: Option<&Start>,
    place: &dyn Fn(&Path) -> Result<String>,
) -> Result<String> {
    let list = |paths: &[PathBuf]| -> Result<String> {
        Ok(paths.iter().map(|path| place(path)).collect::<Result<Vec<_>>>()?.join(", "))
    };
    let (model, tokenizer) = match start {
        None => (FRESH.to_owned(), match &args.tokenizer {
            Some(file) => place(file)?,
            None => "\"tokenizer.json\"".to_owned(),
        }),
        Some(Start { converted: true, .. }) => (
            "[model]\nfrom = \"start\"                      # made by `lacuna convert`, see below\n".to_owned(),
            "\"start/tokenizer.json\"".to_owned(),
        ),
        Some(Start { from, .. }) => (
            format!("[model]\nfrom = {}\n", place(from)?),
            place(&from.join("tokenizer.json"))?,
        ),
    };
    let window = start.map_or(128, |start| start.positions.min(256));
    let rate = if start.is_some() { "1e-4" } else { "4e-3" };
    let mut text = format!(
        "\
# A recipe for `lacuna train`: everything that a run depends on. `--set key=value` changes a key for one run;
# the run's folder gets a copy with every default written out.

name = \"mine\"                         # the run's folder is runs/mine
seed = 1                              # the one source of all randomness

{model}
[data]
tokenizer = {tokenizer}
corpus = [{}]
",
        list(&args.corpus)?,
    );
    if !args.extension.is_empty() {
        writeln!(text, "extensions = {}", serde_json::to_string(&args.extension)?)?;
    }
    writeln!(text, "window = {window}                          # tokens in a training row")?;
    writeln!(
        text,
        "held_out = 0.08                       # part of the files that scores are made on"
    )?;
    if !args.sft.is_empty() {
        writeln!(
            text,
            "\n[sft]\nsamples = [{}]\n# packing = \"whole\"                 # passes over conversations longer than a window, \
             and counts them",
            list(&args.sft)?
        )?;
    }
    text.push_str("\n[optimizer]\nweight_decay = 0.1\nclip = 1.0                            # largest norm of a gradient\n");
    if start.is_none() {
        text.push_str(AUTOREGRESSIVE);
    }
    write!(
        text,
        "
# Blocks of masked tokens are filled in. Over `warmup_steps` the largest mask rate grows from next to nothing to 1.
[[stage]]
name = \"block-diffusion\"
objective = \"block-diffusion\"
block_size = 4
steps = 600
batch_size = 8                        # windows in a step; less memory: micro_batch_size = 2
learning_rate = {rate}
learning_rate_warmup = 10
learning_rate_decay = 300             # the last steps, in which it falls
checkpoint_every = 200                # `--resume` goes on from the newest

[stage.corruption]
warmup_steps = 200
"
    )?;
    if !args.sft.is_empty() {
        write!(
            text,
            "
# Conversations: only what the assistant says is learnt.
[[stage]]
name = \"conversations\"
objective = \"block-diffusion\"
block_size = 4
data = \"sft\"
steps = 200
batch_size = 8
learning_rate = {}
learning_rate_warmup = 10
learning_rate_decay = 100
",
            if start.is_some() { "2e-5" } else { "1e-3" }
        )?;
    }
    text.push_str(
        "\n# Scores on held-out text, and completions, at the end.\n[evaluation]\nwindows = 16\nprompts = [\"\"\"def \"\"\"]\n\
         max_new_tokens = 64\n",
    );
    Ok(text)
}

const FRESH: &str = "\
# A fresh model of this shape; or `from = \"PATH\"`, a checkpoint to go on from.
[model]
hidden_size = 160
intermediate_size = 448
layers = 4
heads = 5                             # hidden_size is a multiple
";

const AUTOREGRESSIVE: &str = "
# First the next token is predicted: the base that block diffusion starts from.
[[stage]]
name = \"autoregressive\"
objective = \"autoregressive\"
steps = 800
batch_size = 8
learning_rate = 4e-3
learning_rate_warmup = 40
learning_rate_decay = 150
learning_rate_final = 0.3             # it falls to this part
checkpoint_every = 200
";

/// The commands that have to be run, in order, as a shell takes it.
fn commands(args: &Args, start: Option<&Start>, recipe: &Path) -> Vec<String> {
    let mut commands = Vec::new();
    let here = |name: &str| quoted(&args.folder.join(name));
    match start {
        Some(Start { from, converted: true, .. }) => commands.push(format!(
            "lacuna convert {} {} --to block-diffusion --mask-token append",
            quoted(from),
            here("start")
        )),
        None if args.tokenizer.is_none() && !args.folder.join("tokenizer.json").exists() => {
            let endings: String = args
                .extension
                .iter()
                .map(|e| format!(" --extension {}", quoted(Path::new(e))))
                .collect();
            let inputs: Vec<String> = args.corpus.iter().map(|path| quoted(path)).collect();
            commands.push(format!(
                "lacuna tokenizer --vocab-size 4096{endings} --out {} {}",
                here("tokenizer.json"),
                inputs.join(" ")
            ));
        }
        _ => {}
    }
    commands.push(format!("lacuna train {}", quoted(recipe)));
    commands.push("lacuna generate --model runs/mine/final 'def '".to_owned());
    commands
}

/// A path that a shell reads as one word.
pub(super) fn quoted(path: &Path) -> String {
    let mut text = path.display().to_string();
    if text.starts_with('-') {
        text.insert_str(0, "./");
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

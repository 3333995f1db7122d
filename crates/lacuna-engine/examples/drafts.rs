//! Measures what drafts save and that they change nothing: passes, tokens and seconds with and without.
//!
//! `cargo run --release -p lacuna-engine --example drafts -- MODEL NEW FILE…` takes each file three times: it continues its first 160
//! tokens, fills a hole behind its first 120 (where the tokenizer has marks for holes), and edits its first 120, with
//! the old text as draft. NEW tokens are written each time.

use std::error::Error;
use std::path::Path;

use lacuna_engine::{Completion, DraftSource, GenerateOptions, Model, OpenOptions, edit, generate};
use lacuna_text::{Fim, Tokenizer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROMPT_TOKENS: usize = 160;
const AROUND_TOKENS: usize = 120;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, new, files @ ..] = &args[..] else { return Err("MODEL NEW FILE…".into()) };
    let model = Model::open(Path::new(model), &OpenOptions::default())?;
    let options = GenerateOptions {
        max_new_tokens: new.parse()?,
        eos_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    };
    println!(
        "| task | files | tokens | other tokens | passes | with drafts | saved | drafted blocks | accepted | seconds | with \
         drafts |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let texts = files.iter().map(|file| Ok(std::fs::read_to_string(file)?));
    let texts = texts.collect::<Result<Vec<String>>>()?;
    let tokenizer = model.tokenizer()?;
    let encoded = texts.iter().map(|text| tokenizer.encode_ordinary(text));
    let files: Vec<Vec<u32>> = encoded.collect::<std::result::Result<_, _>>()?;
    for task in [Task::Continue, Task::Fill, Task::Edit] {
        let mut all = Sums::default();
        for file in &files {
            all.measure(&model, task, file, &options)?;
        }
        all.print(task);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Task {
    Continue,
    Fill,
    Edit,
}

/// The prompt of a task, and the text that an edit starts from; None where the model can't do it.
fn prompt(task: Task, tokenizer: &Tokenizer, file: &[u32]) -> Result<Option<(Vec<u32>, Vec<u32>)>> {
    let part = |range: std::ops::Range<usize>| {
        file.get(range.start..range.end.min(file.len())).unwrap_or_default().to_vec()
    };
    Ok(match task {
        Task::Continue => Some((part(0..PROMPT_TOKENS), Vec::new())),
        Task::Fill => match Fim::from_tokenizer(tokenizer) {
            Ok(fim) => {
                let prefix = tokenizer.decode(&part(0..AROUND_TOKENS))?;
                let suffix = tokenizer.decode(&part(2 * AROUND_TOKENS..3 * AROUND_TOKENS))?;
                Some((fim.prompt_text(tokenizer, &prefix, &suffix)?, Vec::new()))
            }
            Err(_) => None,
        },
        Task::Edit => {
            let old = part(0..AROUND_TOKENS);
            let text = tokenizer.decode(&old)?;
            let document = format!("Before:\n{text}\nChange: add type hints\nAfter:\n");
            Some((tokenizer.encode_ordinary(&document)?, old))
        }
    })
}

#[derive(Default)]
struct Sums {
    files: usize,
    tokens: usize,
    other: usize,
    passes: [usize; 2],
    drafted: usize,
    accepted: usize,
    seconds: [f64; 2],
}

impl Sums {
    fn measure(
        &mut self,
        model: &Model,
        task: Task,
        file: &[u32],
        options: &GenerateOptions,
    ) -> Result<()> {
        let Some((prompt, old)) = prompt(task, model.tokenizer()?, file)? else { return Ok(()) };
        let plain = GenerateOptions { drafts: Some(DraftSource::None), ..options.clone() };
        let drafting = GenerateOptions { drafts: Some(DraftSource::Lookup), ..options.clone() };
        let without = || generate(model, prompt.clone(), &plain, |_| {});
        let with = || match task {
            Task::Edit => edit(model, prompt.clone(), &old, &plain, |_| {}),
            _ => generate(model, prompt.clone(), &drafting, |_| {}),
        };
        // In turn first, so that neither finds the machine warmer.
        let [without, with]: [Completion; 2] = match self.files % 2 {
            0 => [without()?, with()?],
            _ => {
                let with = with()?;
                [without()?, with]
            }
        };
        self.files += 1;
        self.tokens += without.tokens.len();
        let same = without.tokens.iter().zip(&with.tokens).filter(|(a, b)| a == b).count();
        self.other += without.tokens.len().max(with.tokens.len()) - same;
        for (at, one) in [&without, &with].into_iter().enumerate() {
            self.passes[at] += one.forwards;
            self.seconds[at] += one.seconds.decode;
        }
        self.drafted += with.drafts.drafted_blocks;
        self.accepted += with.drafts.accepted_blocks;
        Ok(())
    }

    fn print(&self, task: Task) {
        let Self { files, tokens, other, passes: [plain, fewer], drafted, accepted, .. } = self;
        let saved = 100.0 * (plain - fewer) as f64 / (*plain).max(1) as f64;
        println!(
            "| {task:?} | {files} | {tokens} | {other} | {plain} | {fewer} | {saved:.0} % | {drafted} | {accepted} | {:.1} | \
             {:.1} |",
            self.seconds[0], self.seconds[1]
        );
    }
}

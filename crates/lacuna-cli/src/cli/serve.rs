//! `lacuna serve` keeps a model open and answers editors, chat clients and a browser.

use anyhow::{Context, Result};
use lacuna::Resolved;
use lacuna_serve::{Access, AccessLog, Limits, ServeOptions, Stop};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Usage;
use super::decode_args::DecodeArgs;
use super::guidance_args::DraftArgs;
use super::model_args::ModelArgs;
use super::sizes::ByteSize;

/// Serve a model over HTTP to editors, chat clients and a page that shows the denoising.
///
/// The endpoints are those of OpenAI (/v1/completions, /v1/chat/completions), of llama.cpp (/infill, which its editor
/// plugins use) and of Inception (/v1/edit/completions: next edits, with the old text as draft); /openapi.json
/// describes them, and / is the page. `listening on http://HOST:PORT` on stderr says that requests are taken. Ctrl-C or
/// SIGTERM ends it once what is under way is answered, within 5 seconds.
///
/// Without a key only this machine can reach it. The flags of decoding are what a request leaves open.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Server")]
#[command(after_help = "\
Examples:
  lacuna serve --model M
  lacuna serve --model M --port 8012        where llama.vim looks for it
  lacuna serve --model M --host 0.0.0.0 --api-key-file keys
  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"def f(\"}'")]
pub(crate) struct Args {
    /// Address to listen on; one that other machines reach needs --api-key-file
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// File with keys, one a line, of which every request must carry one; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name besides localhost that requests without a key may be sent to; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Name under which the model is listed; default: its folder's or file's
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Requests decoded at once at most; fewer where the measured cost of a pass says that more would write no faster
    #[arg(long, value_name = "N", default_value = "16")]
    parallel: NonZeroUsize,
    /// Requests that wait at most; the next is answered with 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Memory for keys and values of texts that are done with, so that the next text with the same beginning is read
    /// from where it differs
    #[arg(long, value_name = "SIZE", default_value = "1GB")]
    prefix_cache: ByteSize,
    /// Tokens of a prompt that are read between two passes of other requests at most; fewer where somebody waits meanwhile
    #[arg(long, value_name = "N", default_value = "128")]
    prompt_rows: NonZeroUsize,
    /// Don't print a line on stderr for each request
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    draft: DraftArgs,
}

/// The text that memory is planned for: a long prompt of an editor.
const PROMPT_BYTES: usize = 12_000;

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.decode.is_reference() {
        let message = "--mode reference decodes one text at a time; a server decodes many";
        return Err(Usage(message.into()).into());
    }
    if args.decode.prompt_ids.is_some() {
        return Err(Usage("--prompt-ids: requests bring their prompts".into()).into());
    }
    let keys = args.api_key_file.as_deref().map(keys).transpose()?.unwrap_or_default();
    if keys.is_empty() && !args.host.is_loopback() {
        let message = format!(
            "--host {}: other machines reach it, so a key is needed; give --api-key-file, or --host 127.0.0.1",
            args.host
        );
        return Err(Usage(message).into());
    }
    let model = args.model.open(args.decode.work(PROMPT_BYTES))?;
    let mut defaults = args.decode.sampled_options(&model)?;
    args.draft.set(&args.decode, &mut defaults)?;
    // Settings that no request can be decoded with are refused at once.
    Resolved::new(&model, vec![0], &defaults)?;
    let name = args.alias.clone().unwrap_or_else(|| name(model.path()));
    let log = (!args.quiet).then(|| AccessLog::new(told));
    let memory = model.memory_left(args.model.memory.unwrap_or_default());
    let options = ServeOptions {
        host: args.host,
        port: args.port,
        name,
        keys,
        hosts: args.allow_host.clone(),
        defaults,
        running_max: args.parallel,
        waiting_max: args.queue,
        prompt_rows: args.prompt_rows,
        prefix_bytes: args.prefix_cache.0,
        memory,
        limits: Limits::default(),
        clock: || since_1970().as_secs(),
        resident_bytes,
        seed: u64::from(since_1970().subsec_nanos()) << 32,
        log,
    };
    let stop = Stop::new();
    on_end(&stop).context("the system takes no handler for signals")?;
    lacuna_serve::serve(model, options, &stop, |address| {
        note!("listening on http://{address}");
    })?;
    Ok(())
}

/// The memory that this process holds, where the system tells it in a file.
fn resident_bytes() -> Option<u64> {
    let status = lacuna_files::read_text("/proc/self/status".as_ref(), 1 << 20).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A line for a request, without anything of its text.
fn told(access: &Access) {
    let Access { client, method, path, status, seconds } = access;
    note!("{client} {method} {path} {status} {seconds:.3} s");
}

/// The model's name for clients.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    // A run's folder says more than `final`.
    let parent = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
    match (name.as_str(), parent) {
        ("final", Some(parent)) => parent.into_owned(),
        _ => name,
    }
}

/// The keys in a file, one a line.
fn keys(path: &Path) -> Result<Vec<String>> {
    const MOST_BYTES: u64 = 1 << 20;
    let text = lacuna_files::read_text(path, MOST_BYTES)
        .with_context(|| format!("--api-key-file {}", path.display()))?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        anyhow::bail!("--api-key-file {}: holds no key; expected one a line", path.display());
    }
    Ok(keys)
}

/// Stops the server at Ctrl-C, SIGTERM, and where the terminal is closed. A second signal ends the program at once.
#[cfg(unix)]
fn on_end(stop: &Stop) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = stop.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut heard = false;
        for signal in signals.forever() {
            if heard {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            heard = true;
            stop.stop();
        }
    })?;
    Ok(())
}

#[cfg(not(unix))]
fn on_end(stop: &Stop) -> std::io::Result<()> {
    let stop = stop.clone();
    ctrlc::set_handler(move || stop.stop()).map_err(std::io::Error::other)
}

//! Serves block-diffusion code models over HTTP: to editors, to chat clients, and to a page that shows how a text forms.
//!
//! ```no_run
//! use lacuna_engine::{Model, OpenOptions};
//! use lacuna_serve::{ServeOptions, Stop, serve};
//!
//! let model = Model::open("runs/tiny/final".as_ref(), &OpenOptions::default())?;
//! let stop = Stop::new();
//! serve(model, ServeOptions::default(), &stop, |address| println!("http://{address}"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`serve()`] listens, and returns once a [`Stop`] was given and what was under way is answered.
//! - [`ServeOptions`] says where, for whom, and how much at once; [`Limits`] what a connection must keep to.
//! - [`AccessLog`] hears of each request that was answered, never of its text.
//!
//! One thread owns the model. Between two passes it hears new requests, drops those whose client has gone, and reads a
//! part of a prompt; requests join and leave at the borders of their blocks, editors' before others', keys in turn. What
//! was read of a text is kept for the next text that begins as it does. Handlers read requests in the forms of OpenAI,
//! llama.cpp and Inception; `/openapi.json` describes them.
//!
//! It opens no model and prints nothing; what it writes of a text goes to who asked for it.

#![forbid(unsafe_code)]

mod api;
mod app;
mod error;
mod http;
mod metrics;
mod options;
mod work;

pub use error::{Error, Result};
pub use options::{Access, AccessLog, Limits, ServeOptions, Stop};

use lacuna_engine::{MemoryLimit, Model};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use app::App;
use metrics::Metrics;
use work::{Costs, Counters, Settings};

/// Serves a model until it is told to stop. `ready` hears the address once requests are taken.
///
/// Requests under way when it is told to stop are answered, as far as [`Limits::drain`] allows; new ones are not taken.
///
/// # Errors
/// Errors if the address can't be listened on, if others can reach it and there is no key, if the model can't do a pass,
/// or if the thread that decodes ends before the server does.
pub fn serve(
    model: Model,
    options: ServeOptions,
    stop: &Stop,
    ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    options.check()?;
    let model = Arc::new(model);
    let block_size = model.block_size(options.defaults.block_size);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_all()
        .build()?;
    let asked = SocketAddr::new(options.host, options.port);
    let listener = runtime
        .block_on(http::listen(asked))
        .map_err(|reason| Error::Listen { address: asked, reason })?;
    let address = listener.local_addr()?;
    let costs = Costs::measure(&model, block_size)?;
    let metrics = Arc::new(Metrics::default());
    metrics.measured(&costs);
    let ending = Arc::new(AtomicBool::new(false));
    let (memory, prefix_bytes) = shared_out(options.memory, options.prefix_bytes);
    let settings = Settings {
        running_max: options.running_max,
        prompt_rows: options.prompt_rows,
        prefix_bytes,
        memory,
        block_size,
        costs,
    };
    let counters = Counters { metrics: Arc::clone(&metrics), ending: Arc::clone(&ending) };
    let (orders, thread) = work::start(Arc::clone(&model), settings, counters)?;
    let app = Arc::new(App::new(model, options, metrics, (stop.clone(), ending), orders));
    ready(address);
    runtime.block_on(http::serve(listener, app));
    // Handlers that are left hold the way to the thread; they are dropped with their tasks.
    runtime.shutdown_timeout(Duration::from_millis(200));
    // A pass of a large model may take longer than whoever stops it waits; the thread ends behind it.
    let until = Instant::now() + Duration::from_millis(500);
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    match thread.is_finished() {
        true => thread.join().map_err(|_| Error::Worker),
        false => Ok(()),
    }
}

/// The memory of what is decoded and of what is remembered, which gets at most half of both.
fn shared_out(memory: MemoryLimit, prefix_bytes: u64) -> (MemoryLimit, u64) {
    match memory.bytes() {
        Some(bytes) => {
            let remembered = prefix_bytes.min(bytes / 2);
            (MemoryLimit::Bytes(bytes - remembered), remembered)
        }
        None => (MemoryLimit::Unlimited, prefix_bytes),
    }
}

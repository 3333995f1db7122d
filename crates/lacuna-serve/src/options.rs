//! Holds what a server is started with, and how it is stopped.

use lacuna_engine::{GenerateOptions, MemoryLimit};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address to listen on (127.0.0.1).
    pub host: IpAddr,
    /// The port; 0 takes a free one (8080).
    pub port: u16,
    /// The name under which the model is listed.
    pub name: String,
    /// Keys, one of which every request must carry; none: whoever reaches the server may use it, which only loopback
    /// allows.
    pub keys: Vec<String>,
    /// Names besides those of loopback that a request without a key may be sent to: other names in `Host` are a page's that
    /// had its own name point here.
    pub hosts: Vec<String>,
    /// Settings that requests leave open.
    pub defaults: GenerateOptions,
    /// Requests that are decoded at once at most (16); fewer where more would write no faster.
    pub running_max: NonZeroUsize,
    /// Requests that wait at most (64); the next is answered with 429.
    pub waiting_max: usize,
    /// Tokens of prompts that are read between two passes of those that are decoded at most (128); fewer where somebody
    /// waits meanwhile.
    pub prompt_rows: NonZeroUsize,
    /// Bytes of keys and values that are kept of texts that are done with (1 GiB).
    pub prefix_bytes: u64,
    /// The memory that keys and values of what is decoded may take.
    pub memory: MemoryLimit,
    /// Times and sizes that connections must keep to.
    pub limits: Limits,
    /// Seconds since 1970: when an answer was made, and what templates ask for (always 0).
    pub clock: fn() -> u64,
    /// Bytes of memory that the process holds, for `/metrics` (not told).
    pub resident_bytes: fn() -> Option<u64>,
    /// The first of the seeds that requests get which name none; another one at each start writes other texts (0).
    pub seed: u64,
    /// Hears of each request that was answered; never of its text.
    pub log: Option<AccessLog>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        const SIXTEEN: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
        const ROWS: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            name: "lacuna".into(),
            keys: Vec::new(),
            hosts: Vec::new(),
            defaults: GenerateOptions::default(),
            running_max: SIXTEEN,
            waiting_max: 64,
            prompt_rows: ROWS,
            prefix_bytes: 1 << 30,
            memory: MemoryLimit::default(),
            limits: Limits::default(),
            clock: || 0,
            resident_bytes: || None,
            seed: 0,
            log: None,
        }
    }
}

impl ServeOptions {
    /// Refuses keys that no header could carry, and an open door.
    pub(crate) fn check(&self) -> Result<()> {
        let address = SocketAddr::new(self.host, self.port);
        if self.keys.is_empty() && !self.host.is_loopback() {
            return Err(Error::KeyNeeded(address));
        }
        for (at, key) in self.keys.iter().enumerate() {
            let reason = match key.len() {
                0..8 => "is too short",
                513.. => "is too long",
                _ if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    "has a character that a header can't carry"
                }
                _ => continue,
            };
            return Err(Error::Key { number: at + 1, reason });
        }
        Ok(())
    }
}

/// Times and sizes within which a client must stay, so that none can hold what others need.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the beginning of a connection, or the last answer on it, to the end of a request's header (30 s).
    pub header: Duration,
    /// From there to the end of its body (30 s).
    pub body: Duration,
    /// For which a client may take nothing of an answer (30 s).
    pub stall: Duration,
    /// In which requests under way may end once the server is told to stop (3.5 s).
    pub drain: Duration,
    /// Bytes of a header (32 KiB).
    pub header_bytes: usize,
    /// Bytes of a body (8 MiB).
    pub body_bytes: usize,
    /// Connections at once (512); the next waits to be taken.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(30),
            body: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            drain: Duration::from_millis(3500),
            header_bytes: 32 << 10,
            body_bytes: 8 << 20,
            connections: 512,
        }
    }
}

/// A request that was answered, for a log: who, what, how long, and nothing of the text.
#[derive(Clone, Debug)]
pub struct Access {
    /// The client's address.
    pub client: SocketAddr,
    /// The method.
    pub method: String,
    /// The path, without a query.
    pub path: String,
    /// The status.
    pub status: u16,
    /// Until the answer began.
    pub seconds: f64,
}

/// Hears of requests.
#[derive(Clone)]
pub struct AccessLog(Arc<dyn Fn(&Access) + Send + Sync>);

impl AccessLog {
    /// One that is called from the threads of the server, and should not block them.
    pub fn new(hear: impl Fn(&Access) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    pub(crate) fn tell(&self, access: &Access) {
        (self.0)(access);
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}

/// Stops a server from another thread: it takes no more requests, and answers those under way.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// One that has not been given.
    pub fn new() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    /// Stops the server that it was given to.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn wait(&self) {
        let mut heard = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = heard.wait_for(|stopped| *stopped).await;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}

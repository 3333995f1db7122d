//! Fetches a benchmark's data from where its authors publish it, once, and holds it to its hash from then on.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::benchmark::Benchmark;
use crate::error::{Error, Result};

/// The hash of a fetched file, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// True if nobody knew the hash before: it is what the first fetch gave, and held to from now on.
    pub is_recorded: bool,
}

/// The file of a benchmark in a cache, if it is there and unchanged.
///
/// # Errors
/// If the file is another one than was fetched.
pub fn cached(benchmark: &Benchmark, cache: &Path) -> Result<Option<Fetched>> {
    let path = path(benchmark, cache)?;
    if lacuna_files::open_regular(&path).is_err() {
        return Ok(None);
    }
    let bytes = lacuna_files::read_file(&path, LARGEST)?;
    let sha256 = hash(&bytes);
    let known = expected(benchmark, &path)?;
    match known {
        Some(known) if known != sha256 => Err(Error::Fetch {
            url: path.display().to_string(),
            reason: format!(
                "it has the hash {sha256}, expected {known}; remove it, and fetch it again"
            ),
        }),
        known => Ok(Some(Fetched {
            path,
            sha256,
            is_recorded: benchmark.source.sha256.is_none() && known.is_some(),
        })),
    }
}

const LARGEST: u64 = 512 << 20;

/// The hash that a file is held to: the one that is known, else the one that the first fetch recorded beside it.
fn expected(benchmark: &Benchmark, path: &Path) -> Result<Option<String>> {
    if let Some(known) = benchmark.source.sha256 {
        return Ok(Some(known.to_owned()));
    }
    let record = record(path);
    if lacuna_files::open_regular(&record).is_err() {
        return Ok(None);
    }
    let text = lacuna_files::read_text(&record, 1 << 10)?;
    Ok(text.split_whitespace().next().map(str::to_owned))
}

fn path(benchmark: &Benchmark, cache: &Path) -> Result<PathBuf> {
    let name = url(benchmark)?.rsplit('/').next().unwrap_or_default();
    Ok(cache.join(name))
}

fn record(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

fn url(benchmark: &Benchmark) -> Result<&'static str> {
    benchmark.source.url.ok_or_else(|| {
        Error::Request(format!(
            "{}: its authors publish no file that is read here; give a local copy of its lines",
            benchmark.name
        ))
    })
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gets a benchmark's file into a cache, unless it is there.
///
/// # Errors
/// If it can't be had, or has another hash than it should.
#[cfg(feature = "fetch")]
pub fn fetch(benchmark: &Benchmark, cache: &Path) -> Result<Fetched> {
    if let Some(there) = cached(benchmark, cache)? {
        return Ok(there);
    }
    let (url, path) = (url(benchmark)?, path(benchmark, cache)?);
    let bytes = download(url)?;
    let sha256 = hash(&bytes);
    let known = expected(benchmark, &path)?;
    if let Some(known) = known.filter(|known| *known != sha256) {
        let reason = format!("it has the hash {sha256}, expected {known}; nothing was kept");
        return Err(Error::Fetch { url: url.into(), reason });
    }
    lacuna_files::create_folder(cache)?;
    if benchmark.source.sha256.is_none() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let line = format!("{sha256}  {name}\n");
        lacuna_files::write_file(&record(&path), line.as_bytes())?;
    }
    lacuna_files::write_file(&path, &bytes)?;
    Ok(Fetched { path, sha256, is_recorded: benchmark.source.sha256.is_none() })
}

#[cfg(feature = "fetch")]
fn download(url: &str) -> Result<Vec<u8>> {
    use std::time::Duration;

    let failed = |reason: String| Error::Fetch { url: url.into(), reason };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_global(Some(Duration::from_secs(1800)))
        .https_only(!url.starts_with("http://127.0.0.1:"))
        .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls()?)
        .build()
        .into();
    let advice = "; fetch it by other means, and give it as a local copy";
    let response = agent.get(url).header("Accept-Encoding", "identity").call();
    let mut response = response.map_err(|error| failed(format!("{error}{advice}")))?;
    let body = response.body_mut().with_config().limit(LARGEST).read_to_vec();
    body.map_err(|error| failed(format!("{error}{advice}")))
}

/// The certificates to trust: those of `SSL_CERT_FILE`, as other tools take them, else the usual ones.
#[cfg(feature = "fetch")]
fn tls() -> Result<ureq::tls::TlsConfig> {
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

    let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) else {
        return Ok(TlsConfig::builder().build());
    };
    let pem = lacuna_files::read_file(Path::new(&file), 16 << 20)?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

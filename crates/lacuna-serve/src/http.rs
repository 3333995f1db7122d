//! Takes connections under the limits, and ends them: half-sent requests, readers that take nothing, and all of them once
//! the server stops.

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::app::App;
use crate::metrics::Metrics;

mod guard;
mod timed;

pub(crate) use guard::Peer;

/// Bytes that the system keeps of an answer whose client does not read.
const SEND_BYTES: u32 = 128 << 10;

/// Listens. A client that does not read can't have much of its answer kept for it.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BYTES)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Serves connections until the server is told to stop, and then for as long as requests may take to end.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    let limits = app.options.limits;
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = app.stop.wait() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stop.wait() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(_) => {
                // The system has no more handles just now, or the client has gone again.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let watcher = graceful.watcher();
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            app.metrics.connections.fetch_add(1, Ordering::Relaxed);
            if let Some(connection) = connection(stream, peer, &app) {
                // A connection that fails is its client's affair.
                let _ = watcher.watch(connection).await;
            }
            app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
    drop(listener);
    let mut ended = std::pin::pin!(graceful.shutdown());
    if tokio::time::timeout(limits.drain, &mut ended).await.is_err() {
        // The rest is given up, and told so.
        app.ending.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(Duration::from_millis(500), ended).await;
    }
    Metrics::set(&app.metrics.running, 0);
}

/// One connection under the limits.
fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    app: &Arc<App>,
) -> Option<impl hyper_util::server::graceful::GracefulConnection + use<>> {
    let limits = app.options.limits;
    stream.set_nodelay(true).ok()?;
    let service = TowerToHyperService::new(guard::guarded(Arc::clone(app), Peer(peer)));
    let io = TokioIo::new(timed::Timed::new(stream, limits.stall));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(100)
        // hyper has no smaller buffer than 8 KiB.
        .max_buf_size(limits.header_bytes.max(8 << 10));
    Some(builder.serve_connection(io, service))
}

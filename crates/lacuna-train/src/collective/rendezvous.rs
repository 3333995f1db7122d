//! Hands a few bytes from the first rank to the others over TCP, before they have any other way to speak.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Result, TrainError};

/// The place where ranks meet, as PyTorch's launcher tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    host: String,
    port: u16,
}

/// The longest time in which all ranks must have come.
const PATIENCE: Duration = Duration::from_secs(120);
/// The first bytes that a rank says, so that no stranger is taken for one.
const GREETING: [u8; 8] = *b"lacuna\x001";

impl Meeting {
    /// The place that `MASTER_ADDR` and `MASTER_PORT` tell of. The launcher may listen at the port itself: ranks meet
    /// one above it.
    pub(super) fn from_variables(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let port: u16 = value("MASTER_PORT")?.trim().parse().ok()?;
        Some(Self { host: value("MASTER_ADDR")?, port: port.checked_add(1)? })
    }

    /// Gives the first rank's bytes to all.
    pub(super) fn share<const N: usize>(
        &self,
        (rank, size): (usize, usize),
        own: impl FnOnce() -> Result<[u8; N]>,
    ) -> Result<[u8; N]> {
        let failed = |error: std::io::Error| {
            let reason = format!("can't meet the others at {}:{}: {error}", self.host, self.port);
            TrainError::Rank { rank, reason }
        };
        if rank > 0 {
            return self.ask().map_err(failed);
        }
        let bytes = own()?;
        self.answer(size - 1, &bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Answers so many ranks.
    fn answer(&self, others: usize, bytes: &[u8]) -> std::io::Result<()> {
        let listener = TcpListener::bind(("0.0.0.0", self.port))?;
        listener.set_nonblocking(true)?;
        let (began, mut answered) = (Instant::now(), 0);
        while answered < others {
            match listener.accept() {
                // Whoever says something else, or nothing, is no rank.
                Ok((caller, _)) => answered += usize::from(greet(caller, bytes).is_ok()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Err(_) if began.elapsed() > PATIENCE => {
                    let told =
                        format!("{answered} of {others} came within {} s", PATIENCE.as_secs());
                    return Err(std::io::Error::new(ErrorKind::TimedOut, told));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(())
    }

    fn ask<const N: usize>(&self) -> std::io::Result<[u8; N]> {
        let began = Instant::now();
        loop {
            match self.call() {
                Err(_) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(100)),
                ended => return ended,
            }
        }
    }

    fn call<const N: usize>(&self) -> std::io::Result<[u8; N]> {
        let mut places = (self.host.as_str(), self.port).to_socket_addrs()?;
        let place = places.next().ok_or_else(|| std::io::Error::from(ErrorKind::NotFound))?;
        let mut line = TcpStream::connect_timeout(&place, Duration::from_secs(5))?;
        line.set_read_timeout(Some(Duration::from_secs(5)))?;
        line.write_all(&GREETING)?;
        let mut bytes = [0; N];
        line.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn greet(mut caller: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    caller.set_nonblocking(false)?;
    caller.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut said = [0; GREETING.len()];
    caller.read_exact(&mut said)?;
    if said != GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    caller.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_meet_one_port_above_the_launcher_s() {
        let value = |name: &str| match name {
            "MASTER_ADDR" => Some("node-0".to_owned()),
            "MASTER_PORT" => Some("29500".to_owned()),
            _ => None,
        };
        let expected = Meeting { host: "node-0".into(), port: 29501 };
        assert_eq!(Meeting::from_variables(value), Some(expected));
        assert_eq!(Meeting::from_variables(|_| Some("65535".into())), None);
        assert_eq!(Meeting::from_variables(|_| None), None);
    }

    #[test]
    fn every_rank_gets_the_first_one_s_bytes_and_a_stranger_does_not_count() {
        // A port that is free now.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let meeting = Meeting { host: "127.0.0.1".into(), port };
        thread::scope(|scope| {
            for rank in (0..3).rev() {
                let meeting = &meeting;
                scope.spawn(move || {
                    let got = meeting.share((rank, 3), || Ok([7; 128])).unwrap();
                    assert_eq!(got, [7; 128]);
                });
            }
            scope.spawn(|| {
                if let Ok(mut stranger) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n");
                }
            });
        });
    }
}

//! Carries messages between processes with a GPU each by NCCL. It has not run on a card yet.
//!
//! Messages go to the GPU, to the other ranks' and back to the host, so that sums are formed in the order that every
//! engine has, and by the same code.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, group_end, group_start};
use std::sync::Arc;

use super::rendezvous::Meeting;
use super::{Launch, elsewhere, gone};
use crate::error::{Result, TrainError};

/// A process's place among those that NCCL has joined.
#[derive(Debug)]
pub struct NcclSeat {
    comm: Comm,
    stream: Arc<CudaStream>,
}

/// A message's length and the hash of the point of the run that it belongs to.
const HEAD: usize = 8 + 32;

/// Joins the processes that torchrun has started, one for each GPU.
pub(super) fn seat(launch: &Launch, device: &Device) -> Result<NcclSeat> {
    let refuse = |reason: &str| TrainError::Rank { rank: launch.rank, reason: reason.into() };
    let Device::Cuda(cuda) = device else {
        return Err(refuse("was started by torchrun, whose ranks need a GPU each: --device cuda"));
    };
    let meeting = Meeting::from_variables(|name| std::env::var(name).ok());
    let meeting = meeting.ok_or_else(|| {
        refuse("was started by torchrun, and MASTER_ADDR or MASTER_PORT is missing or no address")
    })?;
    let of_nccl =
        |error| TrainError::Rank { rank: launch.rank, reason: format!("NCCL: {error:?}") };
    let id = meeting.share((launch.rank, launch.size), || {
        let id = Id::new().map_err(of_nccl)?;
        Ok(id.internal().map(|byte| byte.to_ne_bytes()[0]))
    })?;
    let id = Id::uninit(id.map(|byte| std::ffi::c_char::from_ne_bytes([byte])));
    let stream = cuda.cuda_stream();
    let comm =
        Comm::from_rank(Arc::clone(&stream), launch.rank, launch.size, id).map_err(of_nccl)?;
    Ok(NcclSeat { comm, stream })
}

impl NcclSeat {
    pub(super) fn rank(&self) -> usize {
        self.comm.rank()
    }

    pub(super) fn size(&self) -> usize {
        self.comm.world_size()
    }

    pub(super) fn exchange(
        &self,
        place: &'static str,
        mut messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let own = self.rank();
        let heads: Vec<Vec<u8>> = messages.iter().map(|message| head(place, message)).collect();
        let sizes = vec![HEAD; self.size()];
        let mut lengths = vec![0; self.size()];
        for (rank, theirs) in self.carry(&heads, &sizes)?.iter().enumerate() {
            let (length, of) = theirs.split_first_chunk::<8>().ok_or_else(|| elsewhere(rank))?;
            if rank != own && of != blake3::hash(place.as_bytes()).as_bytes() {
                return Err(elsewhere(rank));
            }
            lengths[rank] = u64::from_le_bytes(*length) as usize;
        }
        let mut received = self.carry(&messages, &lengths)?;
        received[own] = std::mem::take(&mut messages[own]);
        Ok(received)
    }

    /// Sends a message to each other rank and takes those of the given lengths; empty ones are not sent.
    fn carry(&self, messages: &[Vec<u8>], lengths: &[usize]) -> Result<Vec<Vec<u8>>> {
        let own = self.rank();
        let others = || (0..self.size()).filter(|rank| *rank != own);
        let on_card = |error| TrainError::Rank { rank: own, reason: format!("CUDA: {error:?}") };
        let mut outgoing: Vec<Option<CudaSlice<u8>>> = vec![None; messages.len()];
        let mut incoming: Vec<Option<CudaSlice<u8>>> = vec![None; messages.len()];
        for rank in others() {
            if !messages[rank].is_empty() {
                outgoing[rank] = Some(self.stream.clone_htod(&messages[rank]).map_err(on_card)?);
            }
            if lengths[rank] > 0 {
                incoming[rank] = Some(self.stream.alloc_zeros(lengths[rank]).map_err(on_card)?);
            }
        }
        group_start().map_err(|_| gone(own))?;
        for rank in others() {
            if let Some(message) = &outgoing[rank] {
                self.comm.send(message, rank as i32).map_err(|_| gone(rank))?;
            }
            if let Some(message) = &mut incoming[rank] {
                self.comm.recv(message, rank as i32).map_err(|_| gone(rank))?;
            }
        }
        group_end().map_err(|_| gone(own))?;
        let read = |slice: Option<CudaSlice<u8>>| match slice {
            Some(slice) => self.stream.clone_dtoh(&slice).map_err(on_card),
            None => Ok(Vec::new()),
        };
        incoming.into_iter().map(read).collect()
    }
}

fn head(place: &str, message: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(place.as_bytes());
    [&(message.len() as u64).to_le_bytes()[..], hash.as_bytes()].concat()
}

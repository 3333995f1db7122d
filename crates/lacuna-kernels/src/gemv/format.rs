//! The formats that are multiplied where they lie, as constants that a loop is compiled for.

use super::PART;
use crate::dtype::StorageDtype;

pub(super) const F32: u8 = StorageDtype::F32 as u8;
pub(super) const F16: u8 = StorageDtype::F16 as u8;
pub(super) const BF16: u8 = StorageDtype::BF16 as u8;
pub(super) const Q4_0: u8 = StorageDtype::Q4_0 as u8;
pub(super) const Q4_1: u8 = StorageDtype::Q4_1 as u8;
pub(super) const Q8_0: u8 = StorageDtype::Q8_0 as u8;
pub(super) const Q4K: u8 = StorageDtype::Q4K as u8;
pub(super) const Q6K: u8 = StorageDtype::Q6K as u8;

/// (parts in a block, bytes of a block).
pub(super) const fn block_of(format: u8) -> (usize, usize) {
    match format {
        F32 => (1, 4 * PART),
        F16 | BF16 => (1, 2 * PART),
        Q4_0 => (1, StorageDtype::Q4_0.block_bytes()),
        Q4_1 => (1, StorageDtype::Q4_1.block_bytes()),
        Q8_0 => (1, StorageDtype::Q8_0.block_bytes()),
        Q4K => (8, StorageDtype::Q4K.block_bytes()),
        _ => (8, StorageDtype::Q6K.block_bytes()),
    }
}

//! Reads the files back by a reader that shares nothing with the writer: its own checksum, bit by bit, and a walk over
//! whatever fields there are.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;
use std::collections::BTreeMap;

/// CRC-32C of the Castagnoli polynomial, a bit at a time, as RFC 3720 defines it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn unmasked(stored: &[u8]) -> u32 {
    u32::from_le_bytes(stored.try_into().unwrap()).wrapping_sub(0xa282_ead8).rotate_left(15)
}

/// The events of a file, whose every checksum holds.
fn events(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at(8);
        assert_eq!(unmasked(&rest[..4]), checksum(length));
        let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
        let (event, rest) = rest[4..].split_at(length);
        assert_eq!(unmasked(&rest[..4]), checksum(event));
        events.push(event.to_vec());
        bytes = &rest[4..];
    }
    events
}

fn number(bytes: &mut &[u8]) -> u64 {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let (own, rest) = bytes.split_at(end + 1);
    *bytes = rest;
    own.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

/// The fields of a message: their numbers, and their bytes (of a varint its value).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = number(&mut bytes);
        let length = match key & 7 {
            0 => {
                let value = number(&mut bytes);
                found.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => number(&mut bytes) as usize,
            other => panic!("a field of kind {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        found.push((key >> 3, value.to_vec()));
        bytes = rest;
    }
    found
}

fn get(message: &[(u64, Vec<u8>)], number: u64) -> Option<&[u8]> {
    message.iter().find(|(at, _)| *at == number).map(|(_, bytes)| bytes.as_slice())
}

/// The scalars of an event.
fn scalars(event: &[(u64, Vec<u8>)]) -> BTreeMap<String, f32> {
    let summary = fields(get(event, 5).unwrap_or_default());
    let value = |(at, bytes): &(u64, Vec<u8>)| {
        assert_eq!(*at, 1);
        let value = fields(bytes);
        let tag = String::from_utf8(get(&value, 1).unwrap().to_vec()).unwrap();
        (tag, f32::from_le_bytes(get(&value, 2).unwrap().try_into().unwrap()))
    };
    summary.iter().map(value).collect()
}

fn step(step: u64) -> StepMetrics {
    let (loss, loss_unweighted, grad_norm, supervised) = (4.5, 3.25, 0.5, 7);
    let lr = 1e-3;
    StepMetrics { step, loss, loss_unweighted, grad_norm, supervised, lr, ..Default::default() }
}

#[test]
fn the_checksum_is_that_of_the_format() {
    // RFC 3720, B.4: 32 zeros, and the bytes 0 to 31.
    let rising: Vec<u8> = (0..32).collect();
    for (bytes, crc) in [(&[0; 32][..], 0x8a91_36aa), (&rising, 0x46dd_794e_u32)] {
        assert_eq!(checksum(bytes), crc);
        assert_eq!(masked_checksum(bytes), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}

#[test]
fn an_independent_reader_finds_every_number_at_its_step() {
    let run = tempfile::tempdir().unwrap();
    let mut file = EventFile::new(run.path(), 299, || 1.5e9);
    assert_eq!((file.step(&step(300)), file.step(&step(301))), (None, None));
    let name = "tensorboard/events.out.tfevents.1500000000.lacuna.000000299";
    let events = events(&std::fs::read(run.path().join(name)).unwrap());
    let events: Vec<_> = events.iter().map(|event| fields(event)).collect();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| get(event, 1) == Some(&1.5e9f64.to_le_bytes()[..])));
    assert_eq!(get(&events[0], 3), Some(&b"brain.Event:2"[..]));
    assert_eq!(get(&events[1], 2), Some(&300u64.to_le_bytes()[..]));
    assert_eq!(get(&fields(get(&events[1], 7).unwrap()), 1), Some(&1u64.to_le_bytes()[..]));
    for (event, at) in events[2..].iter().zip([300u64, 301]) {
        assert_eq!(get(event, 2), Some(&at.to_le_bytes()[..]));
        let scalars = scalars(event);
        assert_eq!((scalars["train/loss"], scalars["train/loss_weighted"]), (3.25, 4.5));
        assert_eq!(scalars["train/learning_rate"], 1e-3);
        assert!(!scalars.contains_key("train/mask_rate"), "an autoregressive step has none");
    }
}

#[test]
fn a_place_that_is_none_is_told_once_and_written_when_it_is_one() {
    let run = tempfile::tempdir().unwrap();
    std::fs::write(run.path().join(FOLDER), "a file").unwrap();
    let mut file = EventFile::new(run.path(), 0, || 1.0);
    let told = file.step(&step(1)).unwrap();
    assert!(told.contains("tensorboard") && told.contains("goes on"), "{told}");
    assert_eq!(file.step(&step(2)), None);
    std::fs::remove_file(run.path().join(FOLDER)).unwrap();
    assert_eq!(file.step(&step(3)), None);
    let name = "tensorboard/events.out.tfevents.0000000001.lacuna.000000000";
    assert_eq!(events(&std::fs::read(run.path().join(name)).unwrap()).len(), 3);
}

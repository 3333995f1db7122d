//! Validates the safetensors header before anything else looks at the file.
//!
//! The layout is: `u64` little-endian length n, n bytes of JSON, then the data. The JSON maps each tensor's name to
//! its dtype, shape and byte range in the data; the ranges cover the data without a gap.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lacuna_kernels::StorageDtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::printable;
use crate::header::{Fault, HeaderEntry, check_shape};

/// The most bytes of a header, which bounds what parsing can allocate: a tensor's entry takes 50 bytes and more in
/// the file.
const LONGEST_HEADER: u64 = 16 << 20;
const MOST_TENSORS: usize = 1 << 16;
const MOST_METADATA: usize = 1 << 12;
/// The beginning of the names that lacuna gives to metadata.
const OURS: &str = "lacuna.";

/// Strings by name that a file says of itself.
pub(crate) type Metadata = BTreeMap<String, String>;

/// The tensors of a safetensors file, in the order of their data.
pub(crate) fn parse_safetensors(file: &[u8]) -> Result<Vec<HeaderEntry>, Fault> {
    Ok(parse_described(file)?.0)
}

/// The tensors of a safetensors file, and of its metadata what lacuna writes into it.
pub(crate) fn parse_described(file: &[u8]) -> Result<(Vec<HeaderEntry>, Metadata), Fault> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        let reason = format!("holds {} bytes; a safetensors file has at least 8", file.len());
        return Err(Fault::file(reason));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER || length > rest.len() as u64 {
        let most = LONGEST_HEADER.min(rest.len() as u64);
        return Err(Fault::file(format!("header claims {length} bytes, at most {most} can be")));
    }
    let length = usize::try_from(length).expect("at most the file's length");
    let (header, data) = rest.split_at(length);
    if header.first() != Some(&b'{') {
        return Err(Fault::file("header is no JSON object: it does not start with {"));
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    let parsed = Header::deserialize(&mut json).and_then(|parsed| json.end().map(|()| parsed));
    let Header(infos, metadata) = parsed.map_err(|e| Fault::file(format!("header: {e}")))?;
    Ok((lay_out(infos, 8 + length, data.len())?, metadata))
}

/// Checks shapes and ranges, and that the ranges cover the data without gap or overlap.
fn lay_out(
    infos: Vec<(String, Info<'_>)>,
    data_start: usize,
    data_len: usize,
) -> Result<Vec<HeaderEntry>, Fault> {
    let mut entries = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        entries.push(entry(name, &info, data_start, data_len)?);
    }
    entries.sort_by_key(|entry| entry.range.start);
    let mut end = data_start;
    for entry in &entries {
        if entry.range.start != end {
            let what = if entry.range.start < end { "overlaps the one" } else { "leaves a gap" };
            let (begin, end) = (entry.range.start - data_start, end - data_start);
            let reason = format!("starts at {begin} and {what} before it, which ends at {end}");
            return Err(Fault::tensor(&entry.name, reason));
        }
        end = entry.range.end;
    }
    if end - data_start != data_len {
        let described = end - data_start;
        let reason =
            format!("header describes {described} bytes of data, the file holds {data_len}");
        return Err(Fault::file(reason));
    }
    Ok(entries)
}

fn entry(
    name: String,
    info: &Info<'_>,
    data_start: usize,
    data_len: usize,
) -> Result<HeaderEntry, Fault> {
    let Some((dtype_name, size, dtype)) = known_dtype(&info.dtype) else {
        let reason = format!("unknown dtype {}", printable(&info.dtype));
        return Err(Fault::tensor(&name, reason));
    };
    let Dims(dims) = &info.shape;
    let shape = check_shape(dims).map_err(|reason| Fault::tensor(&name, reason))?;
    let (begin, end) = info.data_offsets;
    if begin > end || end > data_len as u64 {
        let reason = format!("bytes {begin}..{end} are not inside the data of {data_len} bytes");
        return Err(Fault::tensor(&name, reason));
    }
    let bytes = shape.iter().try_fold(size, |n, &dim| n.checked_mul(dim));
    if bytes.is_none_or(|bytes| bytes as u64 != end - begin) {
        let held = end - begin;
        let reason = format!("shape {shape:?} in {dtype_name} does not take {held} bytes");
        return Err(Fault::tensor(&name, reason));
    }
    let inside = "at most the file's length";
    let range = usize::try_from(begin).expect(inside)..usize::try_from(end).expect(inside);
    let range = data_start + range.start..data_start + range.end;
    Ok(HeaderEntry { name, dtype, dtype_name, shape, range })
}

fn known_dtype(name: &str) -> Option<(&'static str, usize, Option<StorageDtype>)> {
    Some(match name {
        "F64" => ("F64", 8, Some(StorageDtype::F64)),
        "F32" => ("F32", 4, Some(StorageDtype::F32)),
        "F16" => ("F16", 2, Some(StorageDtype::F16)),
        "BF16" => ("BF16", 2, Some(StorageDtype::BF16)),
        "I64" => ("I64", 8, None),
        "U64" => ("U64", 8, None),
        "I32" => ("I32", 4, None),
        "U32" => ("U32", 4, None),
        "I16" => ("I16", 2, None),
        "U16" => ("U16", 2, None),
        "I8" => ("I8", 1, None),
        "U8" => ("U8", 1, None),
        "BOOL" => ("BOOL", 1, None),
        "F8_E4M3" => ("F8_E4M3", 1, None),
        "F8_E5M2" => ("F8_E5M2", 1, None),
        _ => return None,
    })
}

struct Header<'a>(Vec<(String, Info<'a>)>, Metadata);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Dims,
    data_offsets: (u64, u64),
}

/// At most eight sizes: a longer list is refused while it is read, not after.
struct Dims(Vec<u64>);

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
                let mut names = BTreeSet::new();
                let mut infos = Vec::new();
                let mut metadata = Metadata::new();
                while let Some(name) = map.next_key::<String>()? {
                    let within =
                        |e: A::Error| A::Error::custom(format!("tensor {}: {e}", printable(&name)));
                    if name == "__metadata__" {
                        metadata = map.next_value::<Strings>().map_err(within)?.0;
                    } else {
                        let info = map.next_value::<Info<'de>>().map_err(within)?;
                        infos.push((name.clone(), info));
                    }
                    if infos.len() > MOST_TENSORS {
                        let most = format!("more than {MOST_TENSORS} tensors");
                        return Err(A::Error::custom(most));
                    }
                    if let Some(twice) = names.replace(name) {
                        let reason = format!("tensor {} appears twice", printable(&twice));
                        return Err(A::Error::custom(reason));
                    }
                }
                Ok(Header(infos, metadata))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// `__metadata__`: strings by name. Only those whose names begin with `lacuna.` are kept.
struct Strings(Metadata);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let (mut keys, mut kept) = (BTreeSet::new(), Metadata::new());
                while let Some((key, value)) = map.next_entry::<String, Cow<'de, str>>()? {
                    if key.starts_with(OURS) {
                        kept.insert(key.clone(), value.into_owned());
                    }
                    if !keys.insert(key) || keys.len() > MOST_METADATA {
                        return Err(A::Error::custom("a key twice, or more than 4096 keys"));
                    }
                }
                Ok(Strings(kept))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Dims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of whole numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element::<u64>()? {
                    if dims.len() == 8 {
                        return Err(A::Error::custom("more than 8 dimensions, expected 1..=4"));
                    }
                    dims.push(dim);
                }
                Ok(Dims(dims))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

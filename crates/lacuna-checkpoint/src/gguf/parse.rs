//! Parses the GGUF container, versions 2 and 3, little-endian.
//!
//! The layout is: magic, version, counts; metadata as key, type, value; tensors as name, dimensions, type, offset;
//! then, aligned, the data. A header is parsed once, into a [`Header`] that owns keys, numbers and names and leaves
//! texts and arrays where they lie; every count is bounded by the bytes left, and so is what is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lacuna_kernels::StorageDtype;

use super::reader::{Array, Kind, Reader, Stored, Value};
use crate::error::printable;
use crate::header::{Fault, HeaderEntry, check_shape};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const LARGEST_ALIGNMENT: u64 = 1 << 20;
const MOST_TENSORS: u64 = 1 << 16;
const MOST_METADATA: u64 = 1 << 16;
const LONGEST_NAME: u64 = 1 << 10;

/// A file's header, parsed once and checked against the file's bytes: its metadata and the places of its tensors.
#[derive(Debug)]
pub(crate) struct Header {
    metadata: BTreeMap<String, Stored>,
    /// The tensors, in the order of their data.
    pub(crate) tensors: Vec<HeaderEntry>,
}

/// A header over the bytes that it was read from, which answers questions about the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gguf<'a> {
    header: &'a Header,
    file: &'a [u8],
}

impl Header {
    /// Parses and validates the whole header against the bytes of the file.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, Fault> {
        #[cfg(test)]
        PARSED.with(|parsed| parsed.set(parsed.get() + 1));
        let mut reader = Reader { file, position: 0 };
        let (tensor_count, metadata_count) = reader.preamble().map_err(Fault::file)?;
        let metadata = reader.metadata(metadata_count).map_err(Fault::file)?;
        let alignment = alignment(&metadata).map_err(Fault::file)?;
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor_info()?);
        }
        let tensors = lay_out(infos, reader.position as u64, alignment, file.len() as u64)?;
        Ok(Self { metadata, tensors })
    }

    /// The header over `file`, which must be as long as the one that was parsed.
    pub(crate) fn over<'a>(&'a self, file: &'a [u8]) -> Gguf<'a> {
        Gguf { header: self, file }
    }

    /// A header of nothing but these metadata, and the bytes that it lies over.
    #[cfg(test)]
    pub(crate) fn of(metadata: BTreeMap<&str, Value<'_>>) -> (Self, Vec<u8>) {
        let mut file = Vec::new();
        let mut put = |bytes: &[u8]| {
            file.extend_from_slice(bytes);
            file.len() - bytes.len()..file.len()
        };
        let stored = metadata.into_iter().map(|(key, value)| {
            let stored = match value {
                Value::Text(text) => Stored::Text(put(text.as_bytes())),
                Value::Array(Array { kind, len, bytes }) => {
                    Stored::Array { kind, len, range: put(bytes) }
                }
                Value::Unsigned(n, kind) => Stored::Plain(Value::Unsigned(n, kind)),
                Value::Signed(n) => Stored::Plain(Value::Signed(n)),
                Value::F32(x) => Stored::Plain(Value::F32(x)),
                Value::F64(x) => Stored::Plain(Value::F64(x)),
                Value::Bool(b) => Stored::Plain(Value::Bool(b)),
            };
            (key.to_owned(), stored)
        });
        let header = Self { metadata: stored.collect(), tensors: Vec::new() };
        (header, file)
    }

    /// Forgets a key, as a reader does that does not know it.
    #[cfg(test)]
    pub(crate) fn forget(&mut self, key: &str) -> bool {
        self.metadata.remove(key).is_some()
    }
}

#[cfg(test)]
std::thread_local! {
    /// Headers that this thread has parsed.
    pub(crate) static PARSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<'a> Gguf<'a> {
    /// The tensors, in the order of their data.
    pub(crate) fn tensors(&self) -> &'a [HeaderEntry] {
        &self.header.tensors
    }

    /// Bytes of a range that was checked when the header was parsed.
    pub(crate) fn file_bytes(&self, range: Range<usize>) -> &'a [u8] {
        &self.file[range]
    }

    /// The value of a key; `None` also if a text is no UTF-8 any more, because someone writes to the file.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.value(self.header.metadata.get(key)?)
    }

    /// All keys with their values, sorted by key.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let this = *self;
        let entries = self.header.metadata.iter();
        entries.filter_map(move |(key, stored)| Some((key.as_str(), this.value(stored)?)))
    }

    /// The range of the file that a key's text takes.
    pub(crate) fn text_range(&self, key: &str) -> Option<Range<usize>> {
        match self.header.metadata.get(key)? {
            Stored::Text(range) => Some(range.clone()),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn array(&self, key: &str) -> Option<Array<'a>> {
        match self.get(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    fn value(&self, stored: &Stored) -> Option<Value<'a>> {
        Some(match stored {
            Stored::Plain(value) => *value,
            Stored::Text(range) => {
                Value::Text(std::str::from_utf8(&self.file[range.clone()]).ok()?)
            }
            Stored::Array { kind, len, range } => {
                Value::Array(Array { kind: *kind, len: *len, bytes: &self.file[range.clone()] })
            }
        })
    }
}

struct Info<'a> {
    name: &'a str,
    dtype: StorageDtype,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

impl<'a> Reader<'a> {
    /// Magic, version and the counts of tensors and of metadata.
    fn preamble(&mut self) -> Result<(u64, u64), String> {
        if &self.bytes::<4>()? != MAGIC {
            return Err("is no GGUF file: it does not start with GGUF".to_owned());
        }
        match self.u32()? {
            2 | 3 => {}
            1 => return Err("is GGUF version 1; expected 2 or 3".to_owned()),
            version if (1..=3).contains(&version.swap_bytes()) => {
                return Err("is a big-endian GGUF file; expected little-endian".to_owned());
            }
            version => return Err(format!("is GGUF version {version}; expected 2 or 3")),
        }
        let (tensors, metadata) = (self.u64()?, self.u64()?);
        // An entry takes at least these bytes. Metadata: key 8 + 0, type 4, value 1. Tensor: name 8 + 0, rank 4, one
        // dimension 8, type 4, offset 8.
        for (what, count, smallest, most) in
            [("metadata", metadata, 13, MOST_METADATA), ("tensor", tensors, 32, MOST_TENSORS)]
        {
            if count > most || count > self.left() / smallest {
                return Err(format!(
                    "claims {count} {what} entries; {} bytes are left and {most} are allowed",
                    self.left()
                ));
            }
        }
        Ok((tensors, metadata))
    }

    fn metadata(&mut self, count: u64) -> Result<BTreeMap<String, Stored>, String> {
        let mut metadata = BTreeMap::new();
        for place in 0..count {
            let key = self.text(LONGEST_NAME).map_err(|e| format!("metadata {place}: {e}"))?;
            let named = |e| format!("metadata {}: {e}", printable(key));
            let kind = self.kind().map_err(named)?;
            let value = self.stored(kind).map_err(named)?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(named("appears twice".to_owned()));
            }
        }
        Ok(metadata)
    }

    fn tensor_info(&mut self) -> Result<Info<'a>, Fault> {
        let name = self.text(LONGEST_NAME).map_err(Fault::file)?;
        let fault = |reason: String| Fault::tensor(name, reason);
        let rank = self.u32().map_err(fault)?;
        if !(1..=4).contains(&rank) {
            return Err(fault(format!("has {rank} dimensions, expected 1..=4")));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            dims.push(self.u64().map_err(fault)?);
        }
        // The file lists the fastest dimension first.
        dims.reverse();
        let shape = check_shape(&dims).map_err(fault)?;
        let dtype = ggml_dtype(self.u32().map_err(fault)?).map_err(fault)?;
        let offset = self.u64().map_err(fault)?;
        let Some(bytes) = dtype.bytes_of(&shape) else {
            let (values, _) = dtype.block();
            let reason = format!("shape {shape:?} does not divide into {dtype} blocks of {values}");
            return Err(fault(reason));
        };
        Ok(Info { name, dtype, shape, offset, bytes: bytes as u64 })
    }
}

fn alignment(metadata: &BTreeMap<String, Stored>) -> Result<u64, String> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Stored::Plain(Value::Unsigned(n, Kind::U32)))
            if n.is_power_of_two() && *n <= LARGEST_ALIGNMENT =>
        {
            Ok(*n)
        }
        Some(Stored::Plain(Value::Unsigned(n, Kind::U32))) => {
            let most = LARGEST_ALIGNMENT;
            Err(format!("metadata {ALIGNMENT}: is {n}, expected a power of two in 1..={most}"))
        }
        Some(_) => Err(format!("metadata {ALIGNMENT}: expected an unsigned 32-bit number")),
    }
}

/// Checks that the tensors' bytes follow one another, aligned, and end inside the file.
fn lay_out(
    mut infos: Vec<Info<'_>>,
    header_end: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<HeaderEntry>, Fault> {
    let mut names = BTreeSet::new();
    if let Some(twice) = infos.iter().find(|info| !names.insert(info.name)) {
        return Err(Fault::tensor(twice.name, "appears twice"));
    }
    infos.sort_by_key(|info| info.offset);
    let data_start = header_end.next_multiple_of(alignment);
    let mut end = 0u64;
    let mut entries = Vec::with_capacity(infos.len());
    for Info { name, dtype, shape, offset, bytes } in infos {
        let fault = |reason: String| Err(Fault::tensor(name, reason));
        if !offset.is_multiple_of(alignment) {
            return fault(format!("offset {offset} is no multiple of the alignment {alignment}"));
        }
        let next = end.next_multiple_of(alignment);
        if offset != next {
            let what = if offset < next { "overlaps the tensor" } else { "leaves a gap" };
            return fault(format!("offset {offset} {what} before it, expected {next}"));
        }
        // `end` stays at most the file's length, so only these sums can overflow.
        let last = data_start.checked_add(offset).and_then(|start| start.checked_add(bytes));
        let Some(last) = last.filter(|&last| last <= file_len) else {
            return fault(format!(
                "{bytes} bytes at {data_start} + {offset} pass the file's end at {file_len}"
            ));
        };
        end = offset + bytes;
        let inside = "at most the file's length";
        let range =
            usize::try_from(last - bytes).expect(inside)..usize::try_from(last).expect(inside);
        let (dtype_name, dtype) = (dtype.name(), Some(dtype));
        entries.push(HeaderEntry { name: name.to_owned(), dtype, dtype_name, shape, range });
    }
    Ok(entries)
}

/// ggml's numbers of the formats that are read.
const GGML_DTYPES: [(u32, StorageDtype); 14] = [
    (0, StorageDtype::F32),
    (1, StorageDtype::F16),
    (2, StorageDtype::Q4_0),
    (3, StorageDtype::Q4_1),
    (6, StorageDtype::Q5_0),
    (7, StorageDtype::Q5_1),
    (8, StorageDtype::Q8_0),
    (10, StorageDtype::Q2K),
    (11, StorageDtype::Q3K),
    (12, StorageDtype::Q4K),
    (13, StorageDtype::Q5K),
    (14, StorageDtype::Q6K),
    (28, StorageDtype::F64),
    (30, StorageDtype::BF16),
];

fn ggml_dtype(id: u32) -> Result<StorageDtype, String> {
    let found = GGML_DTYPES.iter().find(|(known, _)| *known == id);
    found.map(|(_, dtype)| *dtype).ok_or_else(|| {
        format!(
            "ggml type {id} is not read; read are f32, f16, bf16, q4_0 to q8_0 and q2_k to q6_k"
        )
    })
}

/// ggml's number of a format.
pub(super) fn ggml_id(dtype: StorageDtype) -> u32 {
    let found = GGML_DTYPES.iter().find(|(_, known)| *known == dtype);
    found.map(|(id, _)| *id).expect("every format has a number")
}

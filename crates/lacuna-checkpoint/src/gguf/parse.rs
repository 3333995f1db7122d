//! The GGUF container, versions 2 and 3, little-endian.
//!
//! Layout: magic, version, counts; metadata as key, type, value; tensors as name, dimensions, type,
//! offset; then, aligned, the data. A header is parsed once, into a [`Header`] that owns keys, numbers and names and
//! leaves texts and arrays where they lie; every count is bounded by the bytes left, and so is what is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lacuna_kernels::StorageDtype;

use crate::error::printable;
use crate::header::{Fault, HeaderEntry, check_shape};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const LARGEST_ALIGNMENT: u64 = 1 << 20;
const MOST_TENSORS: u64 = 1 << 16;
const MOST_METADATA: u64 = 1 << 16;
const LONGEST_NAME: u64 = 1 << 10;

/// What the header of a file says and where the rest lies, parsed once and checked against the file's bytes.
#[derive(Debug)]
pub(crate) struct Header {
    metadata: BTreeMap<String, Stored>,
    /// In the order of their data.
    pub(crate) tensors: Vec<HeaderEntry>,
}

/// A metadata value as the header holds it: what may be long stays in the file.
#[derive(Debug)]
enum Stored {
    /// A number or a truth value.
    Plain(Value<'static>),
    Text(Range<usize>),
    Array {
        kind: Kind,
        len: usize,
        range: Range<usize>,
    },
}

/// A header over the bytes that it was read from: what questions about a file are asked of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gguf<'a> {
    header: &'a Header,
    file: &'a [u8],
}

/// A metadata value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Value<'a> {
    Unsigned(u64, Kind),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

/// An array whose elements lie, checked for their length, in `bytes`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Array<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
}

/// The type of a metadata value, as the file numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Value<'_> {
    /// About the bytes of [`encoded`](Self::encoded).
    pub(super) fn encoded_len(&self) -> usize {
        match self {
            Value::Text(text) => 12 + text.len(),
            Value::Array(array) => 16 + array.bytes.len(),
            _ => 12,
        }
    }

    /// Type and value as a file has them. A signed number takes 64 bits, whatever it had.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let of = |kind: Kind, bytes: &[u8]| [&(kind as u32).to_le_bytes(), bytes].concat();
        let counted = |len: usize, bytes: &[u8]| [&(len as u64).to_le_bytes(), bytes].concat();
        match self {
            Value::Unsigned(n, kind) => {
                of(*kind, &n.to_le_bytes()[..usize::try_from(kind.smallest()).unwrap_or(8)])
            }
            Value::Signed(n) => of(Kind::I64, &n.to_le_bytes()),
            Value::F32(x) => of(Kind::F32, &x.to_le_bytes()),
            Value::F64(x) => of(Kind::F64, &x.to_le_bytes()),
            Value::Bool(b) => of(Kind::Bool, &[u8::from(*b)]),
            Value::Text(text) => of(Kind::Text, &counted(text.len(), text.as_bytes())),
            Value::Array(array) => {
                let kind = (array.kind as u32).to_le_bytes();
                of(Kind::Array, &[&kind, &*counted(array.len, array.bytes)].concat())
            }
        }
    }
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        use Kind::*;
        let kinds = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// The fewest bytes that a value takes.
    fn smallest(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::Text => 8,
            Kind::Array => 12,
        }
    }
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

    /// The value of a key; none also where a text is no UTF-8 any more, because someone writes to the file.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.value(self.header.metadata.get(key)?)
    }

    /// All keys with their values, sorted by key.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let this = *self;
        let entries = self.header.metadata.iter();
        entries.filter_map(move |(key, stored)| Some((key.as_str(), this.value(stored)?)))
    }

    /// Where in the file a key's text lies.
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

impl<'a> Array<'a> {
    #[cfg(test)]
    pub(crate) fn new(kind: Kind, len: usize, bytes: &'a [u8]) -> Self {
        Self { kind, len, bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements, if they are strings; one that is no UTF-8 comes as `None`.
    pub(crate) fn texts(self) -> Option<impl Iterator<Item = Option<&'a str>>> {
        let mut reader = Reader { file: self.bytes, position: 0 };
        (self.kind == Kind::Text).then(|| (0..self.len).map(move |_| reader.text(u64::MAX).ok()))
    }

    /// The elements as whole numbers, if they are.
    pub(crate) fn integers(self) -> Option<impl Iterator<Item = i64>> {
        let mut reader = Reader { file: self.bytes, position: 0 };
        let whole = !matches!(self.kind, Kind::F32 | Kind::F64 | Kind::Text | Kind::Array);
        whole.then(|| {
            (0..self.len).map(move |_| match reader.plain(self.kind) {
                Ok(Value::Unsigned(n, _)) => i64::try_from(n).unwrap_or(i64::MAX),
                Ok(Value::Signed(n)) => n,
                Ok(Value::Bool(b)) => i64::from(b),
                _ => i64::MAX,
            })
        })
    }

    /// The elements as f32, if they are.
    pub(crate) fn floats(self) -> Option<impl Iterator<Item = f32>> {
        let chunks = self.bytes.chunks_exact(4);
        (self.kind == Kind::F32)
            .then(|| chunks.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))))
    }
}

struct Info<'a> {
    name: &'a str,
    dtype: StorageDtype,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

/// A cursor that never passes the end.
struct Reader<'a> {
    file: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> u64 {
        (self.file.len() - self.position) as u64
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        if count > self.left() {
            let (at, left) = (self.position, self.left());
            return Err(format!("wants {count} bytes at {at}, the file has {left} left"));
        }
        let count = usize::try_from(count).expect("at most the file's length");
        let bytes = &self.file[self.position..][..count];
        self.position += count;
        Ok(bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N as u64)?.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self, longest: u64) -> Result<&'a str, String> {
        let length = self.u64()?;
        if length > longest {
            return Err(format!("a name of {length} bytes, at most {longest} are allowed"));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| "a string that is no UTF-8".to_owned())
    }

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
        // The least that an entry takes: key 8 + 0, type 4, value 1; name 8 + 0, rank 4, one
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

    fn kind(&mut self) -> Result<Kind, String> {
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| format!("unknown value type {id}"))
    }

    fn stored(&mut self, kind: Kind) -> Result<Stored, String> {
        match kind {
            Kind::Text => {
                let text = self.text(u64::MAX)?;
                Ok(Stored::Text(self.position - text.len()..self.position))
            }
            Kind::Array => self.array(),
            plain => self.plain(plain).map(Stored::Plain),
        }
    }

    /// A number or a truth value.
    fn plain(&mut self, kind: Kind) -> Result<Value<'static>, String> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(self.bytes()?).into(), kind),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into(), kind),
            Kind::U32 => Value::Unsigned(self.u32()?.into(), kind),
            Kind::U64 => Value::Unsigned(self.u64()?, kind),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            Kind::Bool => match self.bytes::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("a truth value of {other}, expected 0 or 1")),
            },
            Kind::Text | Kind::Array => return Err("a value that is no number".to_owned()),
        })
    }

    /// An array, whose elements are measured and left where they lie.
    fn array(&mut self) -> Result<Stored, String> {
        let kind = self.kind()?;
        let count = self.u64()?;
        if kind == Kind::Array {
            return Err("an array of arrays, which no model needs".to_owned());
        }
        if count > self.left() / kind.smallest() {
            let left = self.left();
            return Err(format!("an array of {count} values, the file has {left} bytes left"));
        }
        let start = self.position;
        if kind == Kind::Text {
            for _ in 0..count {
                let length = self.u64()?;
                self.take(length)?;
            }
        } else {
            self.take(count * kind.smallest())?;
        }
        let len = usize::try_from(count).expect("at most the file's length");
        Ok(Stored::Array { kind, len, range: start..self.position })
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

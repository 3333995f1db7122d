//! Reads the rows of Parquet files, as data sets on the Hugging Face hub are published.
//!
//! The crate `parquet` is asked for one row after the other, in small batches, so that a file is never held whole. Its
//! readers were not written against strangers: where one panics on a damaged file, the row is told as damage.

use super::json::Fault;
use crate::corpus::Reason;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Rows that are decoded at a time: a text may have megabytes.
const BATCH: usize = 32;

/// The rows of a file, one after the other.
pub(crate) struct Rows<R: ChunkReader> {
    file: SerializedFileReader<R>,
    /// The columns that are read.
    columns: SchemaDescPtr,
    /// The names of all columns.
    names: Vec<String>,
    next_group: usize,
    rows: Option<ReaderIter>,
    number: usize,
    total: usize,
}

impl<R: ChunkReader + 'static> Rows<R> {
    /// Opens a file; of its columns those named `fields` are read, or all of them.
    pub(crate) fn open(file: R, fields: Option<&[String]>) -> io::Result<Self> {
        let file = guarded(|| SerializedFileReader::new(file))?;
        let metadata = file.metadata().file_metadata();
        let root = metadata.schema_descr().root_schema();
        let names = root.get_fields().iter().map(|field| field.name().to_owned()).collect();
        let total = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let wanted = |field: &Arc<Type>| {
            fields.is_none_or(|fields| fields.iter().any(|name| name == field.name()))
        };
        let chosen = root.get_fields().iter().filter(|field| wanted(field)).cloned().collect();
        let chosen = Type::group_type_builder(root.name()).with_fields(chosen).build();
        let chosen = chosen.map_err(io::Error::other)?;
        let columns = guarded(|| Ok(Arc::new(SchemaDescriptor::new(Arc::new(chosen)))))?;
        check_compression(file.metadata(), &columns)?;
        Ok(Self { file, columns, names, next_group: 0, rows: None, number: 0, total })
    }

    /// The names of all columns of the file.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// True if the file has none of the columns that were asked for.
    pub(crate) fn has_no_column(&self) -> bool {
        self.columns.root_schema().get_fields().is_empty()
    }

    /// The number of the row that was read last, from 1.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The part of the rows that was read, from 0 to 1.
    pub(crate) fn part(&self) -> f64 {
        self.number as f64 / self.total.max(1) as f64
    }

    /// The next row.
    pub(crate) fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            if let Some(rows) = &mut self.rows {
                match guarded(|| rows.next().transpose())? {
                    Some(row) => {
                        self.number += 1;
                        return Ok(Some(row));
                    }
                    None => self.rows = None,
                }
            }
            if self.next_group >= self.file.num_row_groups() {
                return Ok(None);
            }
            let (file, columns) = (&self.file, &self.columns);
            let rows = guarded(|| {
                let group = file.get_row_group(self.next_group)?;
                TreeBuilder::new().with_batch_size(BATCH).as_iter(Arc::clone(columns), &*group)
            });
            self.rows = Some(rows?);
            self.next_group += 1;
        }
    }
}

/// Refuses columns whose compression is not read here: their bytes may be whole.
fn check_compression(metadata: &ParquetMetaData, wanted: &SchemaDescriptor) -> io::Result<()> {
    use Compression::{GZIP, SNAPPY, UNCOMPRESSED, ZSTD};
    let is_wanted = |path: &str| wanted.columns().iter().any(|c| c.path().string() == path);
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    for chunk in chunks.filter(|chunk| is_wanted(&chunk.column_path().string())) {
        let compression = chunk.compression();
        if !matches!(compression, UNCOMPRESSED | SNAPPY | GZIP(_) | ZSTD(_)) {
            // Its level, if it has one, is of no interest.
            let name = compression.to_string();
            let name = name.split('(').next().unwrap_or_default();
            let column = chunk.column_path().string();
            let reason = format!(
                "column `{}` is compressed with {name}, which is not read here; write the file again with zstd, snappy or \
                 gzip, or without compression",
                lacuna_files::short(&column)
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
    }
    Ok(())
}

/// Runs a reader of strangers' bytes: what it refuses, and what it panics on, is damage.
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(parquet::errors::ParquetError::External(error))) => match error.downcast() {
            Ok(error) => Err(*error),
            Err(error) => Err(io::Error::other(error)),
        },
        Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "no rows can be made of it")),
    }
}

/// The text of a row: the first of the fields that holds one.
pub(crate) fn text_of(row: Row, fields: &[String]) -> Result<String, Fault> {
    let mut columns = row.into_columns();
    let mut wrong = None;
    for name in fields {
        let Some((_, value)) = columns.iter_mut().find(|(column, _)| column == name) else {
            continue;
        };
        match std::mem::replace(value, Field::Null) {
            Field::Str(text) => return Ok(text),
            Field::Bytes(bytes) => {
                let text = String::from_utf8(bytes.data().to_vec());
                return text.map_err(|_| Fault::new(Reason::NotUtf8, "not UTF-8"));
            }
            other => {
                wrong.get_or_insert(format!("{name:?} is {}", kind(&other)));
            }
        }
    }
    Err(Fault::new(Reason::NoText, wrong.unwrap_or_else(|| "the row has no field".to_owned())))
}

fn kind(field: &Field) -> &'static str {
    match field {
        Field::Null => "null",
        Field::Bool(_) => "true or false",
        Field::ListInternal(_) => "a list",
        Field::Group(_) | Field::MapInternal(_) => "an object",
        _ => "a number",
    }
}

/// A row as the JSON object that a line of a `.jsonl` would have. A column has a value in every row, so what is null is
/// left out, as in a line that does not mention it.
pub(crate) fn json_of(row: &Row) -> Vec<u8> {
    let mut out = vec![];
    object(row.get_column_iter().map(|(name, value)| (name.clone(), value)), &mut out);
    out
}

fn object<'a>(fields: impl Iterator<Item = (String, &'a Field)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (number, (name, value)) in
        fields.filter(|(_, value)| !matches!(value, Field::Null)).enumerate()
    {
        if number > 0 {
            out.push(b',');
        }
        string(&name, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("memory takes every text");
}

fn write(field: &Field, out: &mut Vec<u8>) {
    match field {
        Field::Null => out.extend(b"null"),
        Field::Bool(value) => out.extend(value.to_string().bytes()),
        Field::Byte(n) => out.extend(n.to_string().bytes()),
        Field::Short(n) => out.extend(n.to_string().bytes()),
        Field::Int(n) => out.extend(n.to_string().bytes()),
        Field::Long(n) => out.extend(n.to_string().bytes()),
        Field::UByte(n) => out.extend(n.to_string().bytes()),
        Field::UShort(n) => out.extend(n.to_string().bytes()),
        Field::UInt(n) => out.extend(n.to_string().bytes()),
        Field::ULong(n) => out.extend(n.to_string().bytes()),
        Field::Float(n) => number(f64::from(*n), out),
        Field::Double(n) => number(*n, out),
        Field::Str(text) => string(text, out),
        Field::Bytes(bytes) => string(&String::from_utf8_lossy(bytes.data()), out),
        Field::Group(row) => {
            object(row.get_column_iter().map(|(name, value)| (name.clone(), value)), out);
        }
        Field::ListInternal(list) => {
            out.push(b'[');
            for (number, element) in list.elements().iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        Field::MapInternal(map) => {
            let name = |key: &Field| match key {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            object(map.entries().iter().map(|(key, value)| (name(key), value)), out);
        }
        other => string(&other.to_string(), out),
    }
}

fn number(value: f64, out: &mut Vec<u8>) {
    // As JSON has it, which knows no infinity.
    serde_json::to_writer(out, &value).expect("memory takes every number");
}

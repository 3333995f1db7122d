//! Changes the order of the rows of queries and keys between Hugging Face's and that of files of architecture
//! "llama".

/// Undoes the permutation that files of architecture "llama" apply to the rows of queries and keys.
///
/// Interleaved rotary pairs rows 2j and 2j + 1 of a head, Hugging Face's pairs j and j + d/2:
/// row j + s·d/2 of a head is stored at 2j + s. Rows move whole, so packed ones move too.
pub(crate) fn unpermute_rows(stored: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    move_rows(stored, rows, heads, |half, row| 2 * (row % half) + row / half)
}

/// The inverse of [`unpermute_rows`].
pub(crate) fn permute_rows(values: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    move_rows(values, rows, heads, |half, row| row / 2 + (row % 2) * half)
}

/// Moves rows within heads: row r of a head comes from row `source(d/2, r)` of the same head.
fn move_rows(
    bytes: &[u8],
    rows: usize,
    heads: usize,
    source: impl Fn(usize, usize) -> usize,
) -> Vec<u8> {
    let (row_bytes, head_rows) = (bytes.len() / rows, rows / heads);
    let mut moved = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (head, within) = (row / head_rows, row % head_rows);
        let from = (head * head_rows + source(head_rows / 2, within)) * row_bytes;
        moved.extend_from_slice(&bytes[from..from + row_bytes]);
    }
    moved
}

//! The table of all samples, `index.sqlite`, which Energon uses to join datasets and to find single files.

use std::{fs, path::Path};

use rusqlite::{Connection, params};

use super::{PrepareError, scan::ScannedShard, written};

/// Statements of megatron-energon 7.4.1.
const TABLES: &str = "
CREATE TABLE samples (
    tar_file_id INTEGER NOT NULL,
    sample_key TEXT NOT NULL UNIQUE,
    sample_index INTEGER NOT NULL,
    byte_offset INTEGER,
    byte_size INTEGER
);
CREATE TABLE sample_parts (
    tar_file_id INTEGER,
    sample_index INTEGER,
    part_name TEXT,
    content_byte_offset INTEGER,
    content_byte_size INTEGER
);
";

const INDICES: &str = "
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
";

/// Writes the table under a temporary name, and renames it.
pub(super) fn write(path: &Path, shards: &[ScannedShard]) -> Result<(), PrepareError> {
    let temporary = path.with_file_name(format!(".index.sqlite.{}.tmp", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(written(&temporary, error)),
        _ => {}
    }
    let filled = fill(&temporary, shards).map_err(|error| PrepareError::Catalog {
        path: path.to_owned(),
        error,
    });
    let renamed = filled.and_then(|()| {
        let file = fs::File::open(&temporary).and_then(|file| file.sync_all());
        file.and_then(|()| fs::rename(&temporary, path))
            .map_err(|error| written(path, error))
    });
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

fn fill(path: &Path, shards: &[ScannedShard]) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    // The file gets its name when it is whole, so it needs no journal.
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    {
        let mut sample = transaction.prepare("INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut part = transaction.prepare("INSERT INTO sample_parts VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (file, shard) in (0i64..).zip(shards) {
            let ends = shard.offsets().skip(1);
            for ((index, row), end) in (0i64..).zip(&shard.samples).zip(ends) {
                sample.execute(params![
                    file,
                    row.key,
                    index,
                    row.start.cast_signed(),
                    (end - row.start).cast_signed()
                ])?;
                for (name, at, size) in &row.parts {
                    part.execute(params![file, index, name, at.cast_signed(), size.cast_signed()])?;
                }
            }
        }
    }
    transaction.execute_batch(INDICES)?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)
}

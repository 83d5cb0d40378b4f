//! Packing over a buffer, packed sets, and groups of similar length.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use neva_data::{
    Batch, BatchSampler, Blended, DataError, Dataset, IMAGE_TOKEN_INDEX, LengthGroups, Loader, MeasuredLengths, MergeOptions, Order,
    PackedRows, PackedSet, PackedSetRows, PackingOptions, Pixels, Row, RowStart, RowStream, Sample, SampleRows, pack_buffer,
    validation_rows,
};
use proptest::prelude::*;

const IMAGE: usize = 4;

/// Samples of these numbers of positions. Every third one that is long enough has an image.
struct Texts {
    lengths: Vec<usize>,
    read: AtomicUsize,
}

impl Texts {
    fn new(lengths: impl IntoIterator<Item = usize>) -> Arc<Self> {
        Arc::new(Self {
            lengths: lengths.into_iter().collect(),
            read: AtomicUsize::new(0),
        })
    }

    fn has_image(&self, index: usize) -> bool {
        index.is_multiple_of(3) && self.lengths[index] > IMAGE
    }
}

impl Dataset for Texts {
    fn len(&self) -> usize {
        self.lengths.len()
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let length = *self.lengths.get(index).ok_or(DataError::Index { index, len: self.len() })?;
        self.read.fetch_add(1, Ordering::Relaxed);
        let has_image = self.has_image(index);
        let text = if has_image { length - IMAGE } else { length };
        let mut ids = vec![100 + index as i64; text + 1];
        if has_image {
            ids.insert(0, IMAGE_TOKEN_INDEX);
        }
        Ok(Sample {
            name: self.name(index),
            labels: ids.clone(),
            ids,
            images: vec![
                Pixels {
                    height: 1,
                    width: 1,
                    chw: vec![index as f32; 3]
                };
                usize::from(has_image)
            ],
        })
    }

    fn name(&self, index: usize) -> String {
        format!("texts#{index}")
    }

    fn identity(&self) -> String {
        format!("{} texts", self.len())
    }
}

const FROM_START: RowStart = RowStart {
    row: 0,
    sample: 0,
    settings: 0,
};

fn order(dataset: &Texts, seed: u64) -> Order {
    Order {
        seed,
        len: dataset.len() as u64,
        shuffle: true,
    }
}

fn lengths(dataset: &Arc<Texts>, threads: usize) -> Arc<MeasuredLengths> {
    Arc::new(MeasuredLengths::new(dataset.clone(), IMAGE, threads))
}

fn packed(dataset: &Arc<Texts>, seed: u64, options: PackingOptions, start: RowStart) -> PackedRows {
    PackedRows::endless(lengths(dataset, 1), Arc::new(order(dataset, seed)), options, start)
}

fn options(buffer: usize, row_length: usize) -> PackingOptions {
    PackingOptions {
        buffer,
        row_length,
        max_length: row_length,
        skips_longer: false,
    }
}

fn rows(stream: &dyn RowStream, numbers: impl IntoIterator<Item = u64>) -> Vec<Row> {
    numbers.into_iter().map(|row| stream.row(row).unwrap().unwrap()).collect()
}

fn positions(rows: &[Row]) -> Vec<u64> {
    rows.iter().flat_map(|row| &row.samples).map(|sample| sample.position).collect()
}

/// Returns how often each position occurs.
fn counts(positions: impl IntoIterator<Item = u64>) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    positions.into_iter().for_each(|position| *counts.entry(position).or_default() += 1);
    counts
}

proptest! {
    #[test]
    fn buffers_fill_rows_without_losing_samples(lengths in prop::collection::vec(0usize..40, 0..200), row_length in 40usize..90) {
        let rows = pack_buffer(&lengths, row_length);
        let mut all: Vec<usize> = rows.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for row in &rows {
            prop_assert!(row.is_sorted());
            prop_assert!(row.iter().map(|sample| lengths[*sample]).sum::<usize>() <= row_length);
        }
        // No two rows would fit into one.
        let filled: Vec<usize> = rows.iter().map(|row| row.iter().map(|sample| lengths[*sample]).sum()).collect();
        let least = lengths.iter().sum::<usize>().div_ceil(row_length);
        prop_assert!(rows.len() <= 2 * least + 1, "{} rows, at least {least}: {filled:?}", rows.len());
    }

    #[test]
    fn a_stop_at_any_row_and_a_resume_with_other_ranks_and_workers_read_each_sample_once(
        sizes in prop::collection::vec(1usize..30, 1..60),
        (seed, buffer, row_length) in (0u64..1000, 1usize..25, 8usize..40),
        skips_longer: bool,
        stops in prop::collection::vec((0u64..6, 0usize..4, 0usize..4), 1..5),
    ) {
        let dataset = Texts::new(sizes);
        let options = PackingOptions { skips_longer, ..options(buffer, row_length) };
        let merge = MergeOptions { image_seq_len: IMAGE, max_length: row_length, row_multiple: 1, fixed_length: false, packed: false };
        let fits = |index: usize| !skips_longer || dataset.lengths[index] <= row_length;
        prop_assume!((0..dataset.len()).any(fits));
        // Batches of four rows on 1, 2 or 4 ranks with 0 to 3 workers, by runs that each start where the last one ended.
        let (mut read, mut left_out, mut start, mut consumed) = (Vec::new(), 0, FROM_START, 0);
        for (steps, ranks, workers) in stops {
            let ranks = [1, 2, 4, 1][ranks];
            let mut next = start;
            for data_parallel_rank in 0..ranks {
                let sampler = BatchSampler { global_batch_size: 4, micro_batch_size: 1, data_parallel_size: ranks, data_parallel_rank };
                let stream = Arc::new(packed(&dataset, seed, options, start));
                let (source, samples) = (stream.clone(), dataset.clone());
                let batch = move |n| Some(Batch::of_stream(&*samples, &*source, &merge, sampler.positions(consumed, n)));
                let loader = Loader::new(batch, workers, 2).unwrap();
                for batch in loader.take((steps * sampler.num_microbatches()) as usize) {
                    let batch = batch.unwrap();
                    prop_assert!(batch.tokens.s <= row_length);
                    prop_assert_eq!(batch.tokens.segments[0].len(), batch.samples.len());
                    left_out += batch.left_out;
                    read.extend(batch.positions.iter().copied().zip(batch.samples));
                }
                let found = stream.start(consumed + 4 * steps).unwrap().unwrap();
                prop_assert!(data_parallel_rank == 0 || found == next, "ranks agree where the run resumes");
                next = found;
            }
            (start, consumed) = (next, consumed + 4 * steps);
        }
        // The same as one run that never stops.
        let whole = packed(&dataset, seed, options, FROM_START);
        let expected = rows(&whole, 0..consumed);
        prop_assert_eq!(left_out, expected.iter().map(|row| row.left_out).sum::<u64>());
        let order = order(&dataset, seed);
        prop_assert!(read.iter().all(|(position, index)| order.index(*position) == *index));
        let read = counts(read.into_iter().map(|(position, _)| position));
        prop_assert!(read.values().all(|count| *count == 1), "a sample was seen twice");
        prop_assert_eq!(&read, &counts(positions(&expected)));
        // Every epoch that ended has each of its samples, except those that are left out.
        let epoch = dataset.len() as u64;
        let last = whole.start(consumed).unwrap().unwrap();
        for position in 0..last.sample / epoch * epoch {
            prop_assert_eq!(read.contains_key(&position), fits(order.index(position) as usize));
        }
    }

    #[test]
    fn a_packed_set_has_every_sample_once_in_an_epoch(
        sizes in prop::collection::vec(1usize..30, 1..60),
        (seed, buffer, row_length) in (0u64..1000, 1usize..80, 8usize..40),
    ) {
        let dataset = Texts::new(sizes);
        let measured = lengths(&dataset, 1);
        let options = options(buffer, row_length);
        let all: Vec<u32> = dataset.lengths.iter().map(|length| *length as u32).collect();
        let set = PackedSet::pack(dataset.identity(), all, &options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packed.bin");
        set.write(&path).unwrap();
        prop_assert_eq!(&PackedSet::read(&path).unwrap(), &set);
        let stream = PackedSetRows::open(&path, &measured, &options, seed, true).unwrap();
        let count = stream.rows_of(1, u64::MAX).unwrap().unwrap();
        prop_assert_eq!(stream.rows_of(3, u64::MAX).unwrap(), Some(3 * count));
        prop_assert_eq!(count, set.rows() as u64);
        // A row is read by its number alone.
        let later = rows(&stream, count..2 * count);
        let first = rows(&stream, 0..count);
        let epoch = dataset.len() as u64;
        prop_assert_eq!(counts(positions(&first)), (0..epoch).map(|position| (position, 1)).collect());
        prop_assert_eq!(counts(positions(&later)), (epoch..2 * epoch).map(|position| (position, 1)).collect());
        for epoch in [&first, &later] {
            let indices = counts(epoch.iter().flat_map(|row| &row.samples).map(|sample| sample.index));
            prop_assert_eq!(indices, (0..dataset.len() as u64).map(|index| (index, 1)).collect());
        }
    }

    #[test]
    fn groups_have_every_sample_once(sizes in prop::collection::vec(1usize..30, 1..60), batch in 1u64..5, seed in 0u64..100) {
        let dataset = Texts::new(sizes);
        let stream = || LengthGroups::new(lengths(&dataset, 1), Arc::new(order(&dataset, seed)), batch, seed, true);
        // A window has 32 batches.
        let size = 32 * batch;
        let all = rows(&stream(), 0..2 * size);
        prop_assert_eq!(counts(positions(&all)), (0..2 * size).map(|position| (position, 1)).collect());
        prop_assert_eq!(&all[7..], &rows(&stream(), 7..2 * size)[..], "a run resumes anywhere");
    }
}

#[test]
fn a_row_depends_on_seed_and_epoch_alone() {
    let dataset = Texts::new((0..50).map(|index| 3 + index * 7 % 20));
    let all = rows(&packed(&dataset, 1, options(20, 32), FROM_START), 0..60);
    // Any row can be asked for first, on any number of threads.
    let stream = PackedRows::endless(lengths(&dataset, 4), Arc::new(order(&dataset, 1)), options(20, 32), FROM_START);
    assert_eq!(rows(&stream, [41, 3, 59, 0]), [41, 3, 59, 0].map(|row| all[row].clone()));
    assert_ne!(rows(&packed(&dataset, 2, options(20, 32), FROM_START), 0..10), all[..10]);
    // Rows keep to their window, which ends with the epoch: 0..20, 20..40, 40..50, 50..70.
    let window = |position: u64| (position / 50, position % 50 / 20);
    for row in &all {
        let windows: Vec<_> = row.samples.iter().map(|sample| window(sample.position)).collect();
        assert!(windows.windows(2).all(|pair| pair[0] == pair[1]), "{row:?}");
    }
}

#[test]
fn a_resume_measures_one_window_alone() {
    let dataset = Texts::new((0..1000).map(|index| 3 + index * 7 % 20));
    let whole = packed(&dataset, 1, options(100, 64), FROM_START);
    let row = 150;
    let expected = rows(&whole, row..row + 4);
    let start = whole.start(row).unwrap().unwrap();
    assert_eq!(start.sample % 100, 0);
    dataset.read.store(0, Ordering::Relaxed);
    let resumed = packed(&dataset, 1, options(100, 64), start);
    assert_eq!(rows(&resumed, row..row + 4), expected);
    assert!(dataset.read.load(Ordering::Relaxed) <= 200);
    // Rows before the start belong to the run that was resumed.
    assert_eq!(resumed.row(0).unwrap(), None);
}

#[test]
fn the_rows_of_epochs_are_counted() {
    let dataset = Texts::new((0..50).map(|index| 3 + index * 7 % 40));
    for skips_longer in [false, true] {
        let options = PackingOptions {
            skips_longer,
            ..options(20, 32)
        };
        let stream = || packed(&dataset, 1, options, FROM_START);
        let all = rows(&stream(), 0..200);
        let of = |epochs| all.iter().position(|row| row.samples[0].position >= 50 * epochs).unwrap() as u64;
        let counted = |epochs, limit| stream().rows_of(epochs, limit).unwrap();
        for epochs in 1..4 {
            assert_eq!(counted(epochs, u64::MAX), Some(of(epochs)));
        }
        assert_eq!(counted(1000, 7), Some(7));
        // Rows that were counted are read as before, and a resumed run counts those before it.
        let known = stream();
        assert_eq!(known.rows_of(2, u64::MAX).unwrap(), Some(of(2)));
        assert_eq!(rows(&known, 0..200), all);
        let start = known.start(of(1) - 2).unwrap().unwrap();
        assert_eq!(packed(&dataset, 1, options, start).rows_of(2, u64::MAX).unwrap(), Some(of(2)));
    }
}

#[test]
fn lengths_that_other_ranks_measured_are_not_measured_again() {
    let dataset = Texts::new((0..100).map(|index| 3 + index * 7 % 20));
    let expected = lengths(&dataset, 1).of(&(0..100).collect::<Vec<_>>()).unwrap();
    let ranks = [0..40, 40..80, 80..120].map(|part| (part.start, lengths(&dataset, 2).measure_range(part).unwrap()));
    assert_eq!(ranks.each_ref().map(|(_, words)| words.len()), [40, 40, 20]);
    let together = lengths(&dataset, 1);
    for (first, words) in ranks {
        together.insert(first, words);
    }
    dataset.read.store(0, Ordering::Relaxed);
    assert_eq!(together.of(&(0..100).collect::<Vec<_>>()).unwrap(), expected);
    assert_eq!(dataset.read.load(Ordering::Relaxed), 0);
}

#[test]
fn a_mixture_is_packed_as_it_is_read() {
    let dataset = Texts::new((0..30).map(|index| 3 + index % 5));
    let blended = Blended::new(dataset.clone(), vec![0..10, 10..30], vec![3.0, 1.0]).unwrap();
    let order = blended.order(5, true);
    let stream = PackedRows::endless(lengths(&dataset, 1), order.clone(), options(8, 16), FROM_START);
    let all = rows(&stream, 0..40);
    assert!(
        all.iter()
            .flat_map(|row| &row.samples)
            .all(|sample| order.index(sample.position) == sample.index)
    );
    let first: Vec<u64> = positions(&all).into_iter().filter(|position| *position < 30).collect();
    assert_eq!(counts(first), (0..30).map(|position| (position, 1)).collect());
    assert!(!order.reads_each_once());
}

#[test]
fn oversize_samples_are_truncated_or_left_out() {
    let dataset = Texts::new([5, 50, 6, 7, 60, 3]);
    let merge = MergeOptions {
        image_seq_len: IMAGE,
        max_length: 16,
        row_multiple: 1,
        fixed_length: false,
        packed: false,
    };
    let read = |skips_longer| {
        let options = PackingOptions {
            skips_longer,
            ..options(6, 16)
        };
        let stream = PackedRows::once(lengths(&dataset, 1), options);
        let rows: Vec<Row> = (0..).map_while(|row| stream.row(row).unwrap()).collect();
        Batch::from_rows(&*dataset, &rows, &merge, stream.row_length()).unwrap().unwrap()
    };
    let truncated = read(false);
    assert_eq!((truncated.tokens.b, truncated.truncated.samples, truncated.left_out), (4, 2, 0));
    assert_eq!(truncated.samples.len(), 6);
    let skipped = read(true);
    assert_eq!((skipped.tokens.b, skipped.truncated.samples, skipped.left_out), (2, 0, 2));
    assert_eq!(skipped.tokens.segments, [vec![5], vec![6, 13, 16]]);
    // Images follow their samples, row by row.
    assert_eq!(skipped.samples, [0, 2, 3, 5]);
    assert_eq!(skipped.pixels, [0.0, 0.0, 0.0, 3.0, 3.0, 3.0]);
    // Samples of windows without a row count before the next row.
    let many = Texts::new([5, 50, 50, 50, 50, 6]);
    let options = PackingOptions {
        skips_longer: true,
        ..options(2, 16)
    };
    let stream = PackedRows::once(lengths(&many, 1), options);
    let rows: Vec<Row> = (0..).map_while(|row| stream.row(row).unwrap()).collect();
    assert_eq!(rows.iter().map(|row| row.left_out).collect::<Vec<_>>(), [1, 3]);
    let options = PackingOptions { max_length: 2, ..options };
    let error = packed(&dataset, 1, options, FROM_START).row(0).unwrap_err().to_string();
    assert!(error.contains("none of 6 samples fits into 2 positions"), "{error}");
}

#[test]
fn a_validation_reads_each_sample_once_on_all_ranks() {
    let dataset = Texts::new((0..23).map(|index| 3 + index * 5 % 11));
    for ranks in [1, 2, 4] {
        let (mut read, mut numbers) = (Vec::new(), Vec::new());
        for data_parallel_rank in 0..ranks {
            let sampler = BatchSampler {
                global_batch_size: 4,
                micro_batch_size: 1,
                data_parallel_size: ranks,
                data_parallel_rank,
            };
            let stream = PackedRows::once(lengths(&dataset, 1), options(10, 20));
            let own: Vec<Vec<Row>> = (0..)
                .map_while(|n| validation_rows(&stream, &sampler, None, n))
                .map(Result::unwrap)
                .collect();
            numbers.push(own.len());
            assert_eq!(
                (0..).map_while(|n| validation_rows(&stream, &sampler, Some(1), n)).count() as u64,
                4 / ranks
            );
            read.extend(positions(&own.concat()));
        }
        assert_eq!(counts(read), (0..23).map(|position| (position, 1)).collect());
        assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
    }
}

#[test]
fn groups_are_of_one_modality_and_similar_length() {
    let dataset = Texts::new((0..300).map(|index| 5 + index * 7 % 60));
    let stream = LengthGroups::new(lengths(&dataset, 3), Arc::new(order(&dataset, 1)), 8, 1, true);
    let all = rows(&stream, 0..256);
    let mixed = all.chunks(8).filter(|batch| {
        let kinds: Vec<bool> = batch.iter().map(|row| dataset.has_image(row.samples[0].index as usize)).collect();
        let lengths: Vec<usize> = batch.iter().map(|row| dataset.lengths[row.samples[0].index as usize]).collect();
        assert!(lengths.is_sorted_by(|longer, shorter| longer >= shorter), "{lengths:?}");
        kinds.iter().any(|kind| *kind != kinds[0])
    });
    assert!(mixed.count() <= 1);
    let plain = rows(&SampleRows(Arc::new(order(&dataset, 1))), 0..256);
    assert_eq!(counts(positions(&all)), counts(positions(&plain)));
    assert_ne!(all, plain);
}

#[test]
fn packed_sets_of_other_data_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.bin");
    let dataset = Texts::new([5, 9, 6, 7, 8, 3]);
    let sizes = |dataset: &Texts| dataset.lengths.iter().map(|length| *length as u32).collect::<Vec<_>>();
    let set = PackedSet::pack(dataset.identity(), sizes(&dataset), &options(6, 16)).unwrap();
    set.write(&path).unwrap();
    assert_eq!((set.rows(), set.samples(), set.left_out(), set.truncated()), (3, 6, 0, 0));
    let open =
        |dataset: &Arc<Texts>, options: &PackingOptions| PackedSetRows::open(&path, &lengths(dataset, 1), options, 1, true).map(drop);
    open(&dataset, &options(6, 16)).unwrap();
    let other = |error: Result<(), DataError>, expected: &str| {
        let text = error.unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("neva-run data pack"), "{text}");
    };
    other(open(&Texts::new([5, 9]), &options(6, 16)), "of 6 samples; the run has 2");
    other(open(&dataset, &options(6, 20)), "rows of 16 positions");
    other(
        open(&Texts::new([5, 9, 6, 7, 8, 4]), &options(6, 16)),
        "texts#5 has 4 positions, not 3",
    );
    let whole = std::fs::read(&path).unwrap();
    let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    let read = |path: &Path| PackedSet::read(path).map(drop);
    write(&whole[..whole.len() - 4]);
    other(read(&path), "size does not match");
    write(b"{}\n");
    other(read(&path), "header of a packed set");
    // The length of a sample grows: its row is too long.
    let mut longer = whole.clone();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    longer[header] = 15;
    write(&longer);
    other(read(&path), "do not fit");
    let mut beyond = whole;
    let last = beyond.len() - 4;
    beyond[last] = 200;
    write(&beyond);
    other(read(&path), "do not fit");
}

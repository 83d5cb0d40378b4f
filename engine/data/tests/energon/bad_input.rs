//! Damaged shards, indices and metadata: each is refused, with the file, the place and what to do.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use proptest::prelude::{ProptestConfig, any, proptest};

use super::set::{open, options, pack, run_prepare, settings, vqa, vqa_loader, vqa_set};

/// Opens a dataset, and reads all its samples.
fn read_all(root: &Path) -> Result<usize, String> {
    let data = open(&settings(root)).map_err(|error| error.to_string())?;
    (0..data.train.len()).try_for_each(|index| data.train.get(index).map(drop).map_err(|error| error.to_string()))?;
    Ok(data.train.len())
}

/// A change of a dataset's files.
type Damage = fn(&Path);

#[test]
fn damaged_files_are_named() {
    fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
    fn replace(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
    let cases: &[(Damage, &[&str])] = &[
        (
            |root| fs::remove_dir_all(root.join(".nv-meta")).unwrap(),
            &[".info.json: does not exist", "neva-run data prepare"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/.info.json"), "{").unwrap(),
            &[".info.json: is not JSON"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/.info.json"), "{}").unwrap(),
            &[".info.json, shard_counts: is missing"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/.info.json"), "{\"shard_counts\": {}}").unwrap(),
            &["shard_counts: has no number of samples of shard_000.tar"],
        ),
        (
            |root| replace(&root.join(".nv-meta/.info.json"), ": 3", ": -1"),
            &["shard_counts.shard_000.tar: is -1"],
        ),
        (
            |root| replace(&root.join(".nv-meta/.info.json"), ": 3", ": 4"),
            &["shard_000.tar.idx: has 32 bytes, but 4 samples need 40"],
        ),
        (
            |root| fs::remove_file(root.join(".nv-meta/split.yaml")).unwrap(),
            &["split.yaml: does not exist"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {train: [a, a]}").unwrap(),
            &["split_parts.train: names a twice"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {train: [../a.tar]}").unwrap(),
            &["split_parts.train[0]: `../a.tar` leaves the folder"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {train: ['a{0..9.tar']}").unwrap(),
            &["split_parts.train[0]", "a brace without its partner"],
        ),
        (
            |root| {
                fs::write(
                    root.join(".nv-meta/split.yaml"),
                    "split_parts: {train: ['{0..99999}{0..99999}.tar']}",
                )
                .unwrap()
            },
            &["split_parts.train[0]", "more than"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {train: a.tar}").unwrap(),
            &["split_parts.train: must be a list"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {val: []}").unwrap(),
            &["no samples in the split `train`"],
        ),
        (
            |root| fs::write(root.join(".nv-meta/split.yaml"), "split_parts: {train: [b.tgz]}").unwrap(),
            &["b.tgz: is compressed"],
        ),
        (
            |root| fs::remove_file(root.join("shard_000.tar")).unwrap(),
            &["shard_000.tar: does not exist, but the metadata name it"],
        ),
        (
            |root| fs::remove_file(root.join("shard_000.tar.idx")).unwrap(),
            &["shard_000.tar.idx: does not exist", "--force-overwrite"],
        ),
        (
            |root| edit(&root.join("shard_000.tar.idx"), |bytes| bytes.truncate(30)),
            &["shard_000.tar.idx: has 30 bytes"],
        ),
        (
            |root| edit(&root.join("shard_000.tar.idx"), |bytes| bytes[8..16].fill(0)),
            &["shard_000.tar.idx, entry 1: is not above"],
        ),
        (
            |root| edit(&root.join("shard_000.tar.idx"), |bytes| bytes[29] = 9),
            &["shard_000.tar.idx: points beyond the end"],
        ),
        (
            |root| edit(&root.join("shard_000.tar.idx"), |bytes| bytes[8] = 1),
            &["shard_000.tar, byte "],
        ),
        // An index entry at the second file of a sample, as of another archive.
        (
            |root| edit(&root.join("shard_000.tar.idx"), |bytes| bytes[9] -= 4),
            &["shard_000.tar"],
        ),
        (
            |root| edit(&root.join("shard_000.tar"), |bytes| bytes.truncate(1000)),
            &["shard_000.tar.idx: points beyond the end"],
        ),
        (
            |root| edit(&root.join("shard_000.tar"), |bytes| bytes[100] ^= 1),
            &["shard_000.tar, byte 0: there is no tar header"],
        ),
    ];
    for (number, (damage, expected)) in cases.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        vqa_set(folder.path(), &[0..3]);
        assert_eq!(read_all(folder.path()), Ok(3));
        damage(folder.path());
        let error = read_all(folder.path()).unwrap_err();
        for text in *expected {
            assert!(error.contains(text), "case {number}: {text}\nis not in\n{error}");
        }
    }
}

/// Writes an archive of one member, whose header `change` changes.
fn archive(path: &Path, kind: tar::EntryType, name: &[u8], link: Option<&str>, size: u64, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    if let Some(link) = link {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    let mut file = File::create(path).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.write_all(content).unwrap();
    let padding = content.len().next_multiple_of(512) - content.len() + 1024;
    file.write_all(&vec![0; padding]).unwrap();
}

#[test]
fn dangerous_archives_are_refused() {
    use tar::EntryType as E;
    type Case = (E, &'static [u8], Option<&'static str>, u64, &'static [&'static str]);
    let cases: &[Case] = &[
        (E::Regular, b"/etc/passwd.jpg", None, 0, &["byte 0", "absolute name"]),
        (E::Regular, b"a/../../b.jpg", None, 0, &["byte 0", "`..`"]),
        (E::Symlink, b"a.jpg", Some("/etc/passwd"), 0, &["a.jpg is a link"]),
        (E::Link, b"a.jpg", Some("b.jpg"), 0, &["a.jpg is a link"]),
        (E::Char, b"a.jpg", None, 0, &["no regular file"]),
        (E::Fifo, b"a.jpg", None, 0, &["no regular file"]),
        (E::GNUSparse, b"a.jpg", None, 0, &["sparse file"]),
        (E::Regular, b"a.jpg", None, 1 << 40, &["leaves the archive"]),
        (E::Regular, b"a.jpg", None, u64::MAX, &["leaves the archive"]),
        (E::GNULongName, b"././@LongLink", None, 1 << 20, &["leaves the archive"]),
        (E::XHeader, b"pax", None, 10, &["extended header"]),
        (E::Regular, b"no_dot", None, 0, &["has no sample"]),
    ];
    for (kind, name, link, size, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard_0.tar");
        archive(&path, *kind, name, *link, *size, b"");
        let error = run_prepare(folder.path(), &options(Some(vqa_loader()))).unwrap_err().to_string();
        assert!(error.contains("shard_0.tar"), "{error}");
        for text in *expected {
            assert!(error.contains(text), "{kind:?}: {text}\nis not in\n{error}");
        }
        assert!(!folder.path().join(".nv-meta/.info.json").exists());
    }
}

#[test]
fn a_reader_refuses_what_a_preparation_refuses() {
    // The archive is replaced after the preparation: same size, but its second file is a link.
    let folder = tempfile::tempdir().unwrap();
    vqa_set(folder.path(), &[0..1]);
    let path = folder.path().join("shard_000.tar");
    let mut bytes = fs::read(&path).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("0000.png").unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_link_name("/etc/passwd").unwrap();
    header.set_size(0);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    fs::write(&path, bytes).unwrap();
    let error = read_all(folder.path()).unwrap_err();
    assert!(error.contains("0000.png is a link"), "{error}");
}

#[test]
fn long_names_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let key = format!("{}/{}", "folder".repeat(15), "name".repeat(30));
    let mut tar = tar::Builder::new(File::create(folder.path().join("shard_0.tar")).unwrap());
    for (name, content) in vqa(5) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let name = name.replace("0005", &key);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.finish().unwrap();
    drop(tar);
    run_prepare(folder.path(), &options(Some(vqa_loader()))).unwrap();
    let data = open(&settings(folder.path())).unwrap();
    assert_eq!(data.train.name(0), format!("shard_0.tar: sample {key}"));
    data.train.get(0).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Any bytes in place of a file are an error or a dataset, never a panic.
    #[test]
    fn random_damage_never_panics(file in 0usize..5, at in any::<proptest::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        vqa_set(folder.path(), &[0..2]);
        let name = ["shard_000.tar", "shard_000.tar.idx", ".nv-meta/.info.json", ".nv-meta/split.yaml", ".nv-meta/dataset.yaml"][file];
        let path = folder.path().join(name);
        let mut content = fs::read(&path).unwrap();
        let start = at.index(content.len());
        for (to, from) in content[start..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        fs::write(&path, content).unwrap();
        let _ = read_all(folder.path());
        let _ = run_prepare(folder.path(), &neva_data::PrepareOptions { force: true, ..options(None) });
    }
}

#[test]
fn files_of_a_sample_must_be_adjacent() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts: Vec<_> = (0..2).flat_map(vqa).collect();
    parts.swap(1, 2);
    pack(&folder.path().join("shard_0.tar"), &parts);
    let error = run_prepare(folder.path(), &options(Some(vqa_loader()))).unwrap_err().to_string();
    assert!(
        error.contains("sample 0000 in two places") && error.contains("--sort=name"),
        "{error}"
    );
}

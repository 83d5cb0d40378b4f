//! Images in a folder and in a `.tar` file.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{fs, path::Path, process::Command, thread};

use neva_data::{DataError, ImageSource};

/// Writes a folder of files and returns it, with a tar archive of it that `options` make.
fn archive(options: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let long = format!("{}/{}.png", "d".repeat(120), "ü".repeat(60));
    for (name, from) in [("cat.jpg", "jpeg420.jpg"), ("sub/dog.png", "gray2.png"), (&*long, "1x1.png")] {
        let to = images.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(committed(from), to).unwrap();
    }
    let tar = folder.path().join("images.tar");
    let status = Command::new("tar")
        .args(options)
        .args(["-cf".as_ref(), tar.as_os_str(), "-C".as_ref(), images.as_os_str()])
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success());
    (folder, tar)
}

fn committed(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

#[test]
fn a_tar_file_has_the_images_of_its_folder() {
    for options in [["--format=gnu"], ["--format=pax"]] {
        let (folder, tar) = archive(&options);
        let (images, tar) = (
            ImageSource::open(&folder.path().join("images")).unwrap(),
            ImageSource::open(&tar).unwrap(),
        );
        let long = format!("{}/{}.png", "d".repeat(120), "ü".repeat(60));
        for name in ["cat.jpg", "./cat.jpg", "sub/../sub/./dog.png", &long] {
            assert!(images.contains(name) && tar.contains(name), "{name} {options:?}");
            assert_eq!(images.read(name).unwrap(), tar.read(name).unwrap(), "{name}");
            assert_eq!(images.image(name).unwrap(), tar.image(name).unwrap(), "{name}");
            assert_eq!(images.size(name).unwrap(), tar.size(name).unwrap(), "{name}");
        }
        for name in ["sub", "dog.png", "images/cat.jpg", "", "../cat.jpg"] {
            assert!(!images.contains(name) && !tar.contains(name), "{name}");
        }
    }
}

/// Threads share a source without disturbing each other.
#[test]
fn threads_read_at_the_same_time() {
    let (_folder, tar) = archive(&[]);
    let source = ImageSource::open(&tar).unwrap();
    let expected = ["cat.jpg", "sub/dog.png"].map(|name| source.read(name).unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..200 {
                    assert_eq!(source.read(["cat.jpg", "sub/dog.png"][i % 2]).unwrap(), expected[i % 2]);
                }
            });
        }
    });
}

/// As when the archive is unpacked, a file that was added later replaces the earlier one.
#[test]
fn the_last_file_of_a_name_counts() {
    let (folder, tar) = archive(&[]);
    fs::copy(committed("1x1.png"), folder.path().join("cat.jpg")).unwrap();
    let status = Command::new("tar")
        .args(["-rf".as_ref(), tar.as_os_str(), "-C".as_ref(), folder.path().as_os_str()])
        .arg("cat.jpg")
        .status();
    assert!(status.unwrap().success());
    assert_eq!(ImageSource::open(&tar).unwrap().size("cat.jpg").unwrap(), (1, 1));
}

#[test]
fn errors_name_the_file_and_what_to_do() {
    let (folder, tar) = archive(&[]);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let bytes = fs::read(&tar).unwrap();
    let header = bytes.windows(7).position(|name| name == b"cat.jpg").unwrap() / 512 * 512;
    for (path, expected) in [
        (write("cut.tar", &bytes[..header + 1000]), "is cut off within cat.jpg"),
        (write("packed.tar", b"\x1f\x8b\x08\0\0\0\0\0"), "unpack it with `gunzip`"),
        (write("text.tar", &b"no archive ".repeat(99)), "is no tar archive"),
        (write("empty.tar", b""), "is no tar archive"),
        (folder.path().join("missing"), "cannot read"),
    ] {
        let error = ImageSource::open(&path).unwrap_err().to_string();
        assert!(error.contains(&*path.display().to_string()) && error.contains(expected), "{error}");
    }
    let source = ImageSource::open(&tar).unwrap();
    let error = source.image("horse.jpg").unwrap_err();
    assert!(matches!(error, DataError::Image { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("{0}: horse.jpg: there is no such file in {0}", tar.display())
    );
    let error = ImageSource::folder(folder.path()).read("horse.jpg").unwrap_err().to_string();
    assert!(error.contains("horse.jpg: cannot be read: No such file"), "{error}");
}

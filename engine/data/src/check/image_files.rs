//! Images that a check has seen. Each file is read once, however many records name it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use super::{
    content::hash,
    header::{Doubt, Glance, Header},
    kind::Kind,
    options::ImageCheck,
    probe::ImageRef,
};

/// Number of locks: workers rarely wait for each other.
const SHARDS: usize = 64;

/// Result of the check of an image file.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The image can be read.
    Good(Header),
    /// The image cannot be read.
    Bad(Kind, Arc<str>),
}

/// An image file at the time of its check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageFile {
    pub(super) path: PathBuf,
    /// Number of bytes and time of the last change; `None` if the file could not be read.
    pub(super) state: Option<(u64, u64)>,
    /// Format and size; `None` if the image cannot be read.
    pub(super) header: Option<Header>,
}

/// The verdicts on all image files, by the hash of their path.
pub(super) struct ImageFiles {
    shards: Vec<Mutex<BTreeMap<u64, Verdict>>>,
    check: ImageCheck,
}

impl ImageFiles {
    pub(super) fn new(check: ImageCheck) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            check,
        }
    }

    /// Checks an image. Returns the verdict, and the file if this is its first use.
    pub(super) fn check(&self, image: &ImageRef) -> (Verdict, Option<ImageFile>) {
        let key = hash([image.key()]);
        if let Some(verdict) = self.shard(key).get(&key) {
            return (verdict.clone(), None);
        }
        // Two workers may read the same image at the same time; the first one counts it.
        let (verdict, state) = read(image, self.check);
        if self.shard(key).insert(key, verdict.clone()).is_some() {
            return (verdict, None);
        }
        let header = match &verdict {
            Verdict::Good(header) => Some(*header),
            Verdict::Bad(..) => None,
        };
        let path = image.file();
        (verdict, Some(ImageFile { path, state, header }))
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, BTreeMap<u64, Verdict>> {
        // The remainder is below the number of shards.
        self.shards[(key % SHARDS as u64) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns number of bytes and time of the last change of a file.
pub(super) fn state(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.metadata().ok()?;
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((metadata.len(), u64::try_from(changed.as_nanos()).unwrap_or(u64::MAX)))
}

/// Returns the problem of an image that cannot be decoded.
pub(crate) fn problem(image: &ImageRef) -> Option<(Kind, String)> {
    match read(image, ImageCheck::Decode).0 {
        Verdict::Good(_) => None,
        Verdict::Bad(kind, reason) => Some((kind, reason.to_string())),
    }
}

fn read(image: &ImageRef, check: ImageCheck) -> (Verdict, Option<(u64, u64)>) {
    let state = state(&image.file());
    let seen = match image.glance() {
        Ok(seen) => seen,
        Err(error) => {
            let (kind, reason) = match error.kind() {
                io::ErrorKind::NotFound => (Kind::ImageMissing, format!("there is no file {}", image.describe())),
                _ => (Kind::ImageUnreadable, format!("cannot read {}: {error}", image.describe())),
            };
            return (Verdict::Bad(kind, reason.into()), state);
        }
    };
    let verdict = match (seen, check) {
        (Glance::Complete(header), ImageCheck::Header | ImageCheck::Skip) => Verdict::Good(header),
        (seen, _) => match image.decode() {
            Ok(image) => Verdict::Good(match seen {
                Glance::Complete(header) => header,
                Glance::Doubtful(_) => Header {
                    format: "other",
                    width: u32::try_from(image.width).unwrap_or(u32::MAX),
                    height: u32::try_from(image.height).unwrap_or(u32::MAX),
                },
            }),
            Err(reason) => Verdict::Bad(kind(seen), reason.into()),
        },
    };
    (verdict, state)
}

/// Returns the kind of a problem of an image that cannot be decoded.
fn kind(seen: Glance) -> Kind {
    match seen {
        Glance::Complete(_) | Glance::Doubtful(Doubt::Header) => Kind::ImageBroken,
        Glance::Doubtful(Doubt::Empty) => Kind::ImageEmpty,
        Glance::Doubtful(Doubt::Format) => Kind::ImageFormat,
        Glance::Doubtful(Doubt::End) => Kind::ImageTruncated,
        Glance::Doubtful(Doubt::Size) => Kind::ImageSize,
    }
}

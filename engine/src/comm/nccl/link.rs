//! Tagged transfers between two ranks. NCCL has no tags: it matches sends and receives of a communicator in the order in
//! which each side starts them. So the sender alone decides the order. It sends a header of each transfer (tag, kind,
//! number of elements) over the host's group, and the receiver starts NCCL receives in the order of the headers. A
//! receive starts when it, or a later one, is waited for.

use super::backend::{Backend, Call};
use super::communicator::{Communicator, NcclWork, transport};
use super::watchdog::lock;
use crate::comm::process_group::{ProcessGroup, Work, describe, write};
use crate::comm_error::CommError;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// First tag of headers; transfers of CPU tensors have lower tags.
pub(super) const HEADERS: u32 = 1 << 30;
/// Maximum number of headers in flight.
const BACKLOG: usize = 256;
/// Ranks of a link's communicator.
const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// Sending side of a link.
#[derive(Debug)]
pub(super) struct Outgoing<B: Backend> {
    communicator: Arc<Communicator<B>>,
    host: Arc<dyn ProcessGroup>,
    to: usize,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    count: u64,
    headers: VecDeque<Work>,
}

impl<B: Backend> Outgoing<B> {
    pub(super) fn new(communicator: Arc<Communicator<B>>, host: Arc<dyn ProcessGroup>, to: usize) -> Result<Self, CommError> {
        connect(&communicator, |tensor| Call::Send { tensor, to: RECEIVER })?;
        Ok(Self {
            communicator,
            host,
            to,
            sent: Mutex::default(),
        })
    }

    pub(super) fn send(&self, tensor: &Tensor, tag: u32) -> Result<Work, CommError> {
        let call = Call::Send { tensor, to: RECEIVER };
        let header = call.check(2).and_then(|()| Header::of(tensor, tag));
        let header = header.map_err(|reason| transport(self.communicator.name(), "send", reason))?;
        let mut sent = lock(&self.sent);
        let work = self.host.send(&header.pack(), self.to, header_tag(sent.count))?;
        sent.count += 1;
        sent.headers.push_back(work);
        if sent.headers.len() > BACKLOG {
            sent.headers.pop_front().map_or(Ok(()), Work::wait)?;
        }
        if tensor.numel() == 0 {
            return Ok(Work::done());
        }
        let work = self.communicator.begin(&call)?;
        Ok(Work::new(|| work.wait()))
    }
}

/// Receiving side of a link.
#[derive(Debug)]
pub(super) struct Incoming<B: Backend> {
    communicator: Arc<Communicator<B>>,
    host: Arc<dyn ProcessGroup>,
    from: usize,
    received: Mutex<Received<B>>,
}

struct Received<B: Backend> {
    /// Number of headers read.
    count: u64,
    /// Number of receives posted.
    asked: u64,
    /// Posted receives without a header yet, by tag.
    posted: BTreeMap<u32, VecDeque<Posted<B>>>,
    /// Started receives, by number.
    begun: BTreeMap<u64, Option<NcclWork<B>>>,
    /// Tensors whose header was read before their receive was posted, by tag.
    staged: BTreeMap<u32, VecDeque<Staged<B>>>,
}

/// A tensor that was received before its receive was posted, and its work handle unless it is empty.
type Staged<B> = (Tensor, Option<NcclWork<B>>);

/// A posted receive.
struct Posted<B: Backend> {
    number: u64,
    into: Tensor,
    /// `into` may be written after this event.
    ready: B::Event,
}

impl<B: Backend> std::fmt::Debug for Received<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("count", &self.count)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Incoming<B> {
    pub(super) fn new(communicator: Arc<Communicator<B>>, host: Arc<dyn ProcessGroup>, from: usize) -> Result<Self, CommError> {
        connect(&communicator, |into| Call::Recv { into, from: SENDER })?;
        let received = Mutex::new(Received {
            count: 0,
            asked: 0,
            posted: BTreeMap::new(),
            begun: BTreeMap::new(),
            staged: BTreeMap::new(),
        });
        Ok(Self {
            communicator,
            host,
            from,
            received,
        })
    }

    pub(super) fn recv(self: &Arc<Self>, into: &Tensor, tag: u32) -> Result<Work, CommError> {
        let failed = |reason| transport(self.communicator.name(), "recv", reason);
        let into = into.detach();
        Call::Recv { into: &into, from: SENDER }.check(2).map_err(failed)?;
        let mut received = lock(&self.received);
        if let Some((staged, work)) = pop(&mut received.staged, tag) {
            self.compare(&Header::of(&staged, tag).map_err(failed)?, &into)?;
            return Ok(Work::new(move || {
                work.map_or(Ok(()), NcclWork::wait)?;
                write(&into, &staged.view_as(&into));
                Ok(())
            }));
        }
        let (number, ready) = (received.asked, self.communicator.now().map_err(failed)?);
        received.asked += 1;
        let posted = Posted {
            number,
            into: into.shallow_clone(),
            ready,
        };
        received.posted.entry(tag).or_default().push_back(posted);
        let link = self.clone();
        Ok(Work::new(move || link.complete(number, &into)))
    }

    /// Starts receives in the sender's order up to number `number` and waits for that one.
    fn complete(&self, number: u64, into: &Tensor) -> Result<(), CommError> {
        let mut received = lock(&self.received);
        let work = loop {
            if let Some(work) = received.begun.remove(&number) {
                break work;
            }
            self.advance(&mut received, into)?;
        };
        drop(received);
        work.map_or(Ok(()), NcclWork::wait)
    }

    /// Reads a header and starts its receive.
    fn advance(&self, received: &mut Received<B>, awaited: &Tensor) -> Result<(), CommError> {
        let packed = Tensor::zeros([3], (Kind::Int64, Device::Cpu));
        self.host
            .recv(&packed, self.from, header_tag(received.count))?
            .wait()
            .map_err(|error| match error {
                CommError::Deadline {
                    group,
                    rank,
                    waited,
                    arrived,
                    ..
                } => CommError::Deadline {
                    group,
                    operation: "recv",
                    what: describe(awaited),
                    rank,
                    waited,
                    arrived,
                },
                other => other,
            })?;
        received.count += 1;
        let header = Header::unpack(&packed).map_err(|reason| transport(self.communicator.name(), "recv", reason))?;
        match pop(&mut received.posted, header.tag) {
            Some(posted) => {
                self.compare(&header, &posted.into)?;
                let call = Call::Recv {
                    into: &posted.into,
                    from: SENDER,
                };
                let work = match header.count {
                    0 => None,
                    _ => Some(self.communicator.begin_after(&posted.ready, &call)?),
                };
                received.begun.insert(posted.number, work);
            }
            None => {
                let staged = Tensor::empty([header.count], (header.kind, self.communicator.watchdog().backend.device()));
                let call = Call::Recv {
                    into: &staged,
                    from: SENDER,
                };
                let work = match header.count {
                    0 => None,
                    _ => Some(self.communicator.begin(&call)?),
                };
                received.staged.entry(header.tag).or_default().push_back((staged, work));
            }
        }
        Ok(())
    }

    fn compare(&self, header: &Header, into: &Tensor) -> Result<(), CommError> {
        if (header.kind, header.count) == (into.kind(), into.numel() as i64) {
            return Ok(());
        }
        Err(CommError::Mismatch {
            group: self.communicator.name().into(),
            details: vec![
                format!("rank {} sends {:?} of {} elements", self.from, header.kind, header.count),
                format!("its receiver expects {}", describe(into)),
            ],
        })
    }
}

/// Header of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    tag: u32,
    kind: Kind,
    count: i64,
}

/// Kinds by their number in a header.
const KINDS: [Kind; 10] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Int,
    Kind::Int16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Bool,
];

impl Header {
    fn of(tensor: &Tensor, tag: u32) -> Result<Self, String> {
        let (kind, count) = (tensor.kind(), tensor.numel() as i64);
        if !KINDS.contains(&kind) {
            return Err(format!("{kind:?} cannot be sent; send its bytes, `view_dtype(Kind::Uint8)`"));
        }
        Ok(Self { tag, kind, count })
    }

    fn pack(&self) -> Tensor {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap_or(KINDS.len());
        Tensor::from_slice(&[i64::from(self.tag), kind as i64, self.count])
    }

    fn unpack(packed: &Tensor) -> Result<Self, String> {
        let numbers = Vec::<i64>::try_from(packed).unwrap_or_default();
        let header = match numbers[..] {
            [tag, kind, count] => u32::try_from(tag).ok().zip(usize::try_from(kind).ok()).and_then(|(tag, kind)| {
                let kind = *KINDS.get(kind)?;
                (count >= 0).then_some(Self { tag, kind, count })
            }),
            _ => None,
        };
        header.ok_or_else(|| format!("invalid header of a transfer: {numbers:?}"))
    }
}

/// Connects both ends by a first transfer, which blocks the host. All ranks do this in the same order when links are
/// created: in the middle of a step two ranks could deadlock.
fn connect<B: Backend>(communicator: &Communicator<B>, call: impl for<'a> FnOnce(&'a Tensor) -> Call<'a>) -> Result<(), CommError> {
    let nothing = Tensor::zeros([1], (Kind::Uint8, communicator.watchdog().backend.device()));
    communicator.begin(&call(&nothing))?.wait()
}

/// Returns the tag of header number `count`.
fn header_tag(count: u64) -> u32 {
    // Tags are reused: far fewer headers are in flight at once.
    HEADERS + (count % u64::from(HEADERS - 1)) as u32
}

/// Removes the first entry of queue `tag`.
fn pop<T>(queues: &mut BTreeMap<u32, VecDeque<T>>, tag: u32) -> Option<T> {
    let queue = queues.get_mut(&tag)?;
    let first = queue.pop_front();
    if queue.is_empty() {
        queues.remove(&tag);
    }
    first
}

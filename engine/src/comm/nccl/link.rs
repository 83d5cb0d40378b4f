//! Transfers from one rank to another. NCCL knows no tags: it pairs what a communicator sends and receives in the order
//! in which each side begins it. So the sender alone decides the order. It announces each transfer over the host's
//! group (tag, kind, number of elements), and the receiver begins receives in the order of these headers, whatever
//! order they were asked for in. A receive is begun when it is waited for, or when a later one is.

use super::backend::{Backend, Call};
use super::communicator::{Communicator, InFlight, transport};
use super::watch::lock;
use crate::comm::collective::{Collective, CommError, Pending, describe, write};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// Tags of headers begin here; those of transfers between CPU tensors end.
pub(super) const HEADERS: u32 = 1 << 30;
/// Headers that are kept for a receiver that has not read them.
const BACKLOG: usize = 256;
/// Ranks of a link's communicator.
const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// The way to another rank.
#[derive(Debug)]
pub(super) struct Outgoing<B: Backend> {
    communicator: Arc<Communicator<B>>,
    host: Arc<dyn Collective>,
    to: usize,
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    count: u64,
    headers: VecDeque<Pending>,
}

impl<B: Backend> Outgoing<B> {
    pub(super) fn new(communicator: Arc<Communicator<B>>, host: Arc<dyn Collective>, to: usize) -> Result<Self, CommError> {
        connect(&communicator, |tensor| Call::Send { tensor, to: RECEIVER })?;
        Ok(Self {
            communicator,
            host,
            to,
            sent: Mutex::default(),
        })
    }

    pub(super) fn send(&self, tensor: &Tensor, tag: u32) -> Result<Pending, CommError> {
        let call = Call::Send { tensor, to: RECEIVER };
        let header = call.check(2).and_then(|()| Header::of(tensor, tag));
        let header = header.map_err(|reason| transport(self.communicator.name(), "send", reason))?;
        let mut sent = lock(&self.sent);
        let pending = self.host.send(&header.pack(), self.to, header_tag(sent.count))?;
        sent.count += 1;
        sent.headers.push_back(pending);
        if sent.headers.len() > BACKLOG {
            sent.headers.pop_front().map_or(Ok(()), Pending::wait)?;
        }
        if tensor.numel() == 0 {
            return Ok(Pending::done());
        }
        let in_flight = self.communicator.begin(&call)?;
        Ok(Pending::new(|| in_flight.wait()))
    }
}

/// The way from another rank.
#[derive(Debug)]
pub(super) struct Incoming<B: Backend> {
    communicator: Arc<Communicator<B>>,
    host: Arc<dyn Collective>,
    from: usize,
    received: Mutex<Received<B>>,
}

struct Received<B: Backend> {
    /// Headers read.
    count: u64,
    /// Receives asked for.
    asked: u64,
    /// Asked for and not announced yet, by tag.
    posted: BTreeMap<u32, VecDeque<Posted<B>>>,
    /// Begun, by number.
    begun: BTreeMap<u64, Option<InFlight<B>>>,
    /// Announced before it was asked for, by tag.
    staged: BTreeMap<u32, VecDeque<Staged<B>>>,
}

/// What came before it was asked for, and its transfer where that is still under way.
type Staged<B> = (Tensor, Option<InFlight<B>>);

struct Posted<B: Backend> {
    number: u64,
    into: Tensor,
    /// `into` may be written from here on.
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
    pub(super) fn new(communicator: Arc<Communicator<B>>, host: Arc<dyn Collective>, from: usize) -> Result<Self, CommError> {
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

    pub(super) fn recv(self: &Arc<Self>, into: &Tensor, tag: u32) -> Result<Pending, CommError> {
        let failed = |reason| transport(self.communicator.name(), "recv", reason);
        let into = into.detach();
        Call::Recv { into: &into, from: SENDER }.check(2).map_err(failed)?;
        let mut received = lock(&self.received);
        if let Some((staged, in_flight)) = pop(&mut received.staged, tag) {
            self.compare(&Header::of(&staged, tag).map_err(failed)?, &into)?;
            return Ok(Pending::new(move || {
                in_flight.map_or(Ok(()), InFlight::wait)?;
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
        Ok(Pending::new(move || link.complete(number, &into)))
    }

    /// Begins receives in the sender's order up to the one that is waited for.
    fn complete(&self, number: u64, into: &Tensor) -> Result<(), CommError> {
        let mut received = lock(&self.received);
        let in_flight = loop {
            if let Some(in_flight) = received.begun.remove(&number) {
                break in_flight;
            }
            self.advance(&mut received, into)?;
        };
        drop(received);
        in_flight.map_or(Ok(()), InFlight::wait)
    }

    /// Reads a header, and begins to receive what it announces.
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
                let in_flight = match header.count {
                    0 => None,
                    _ => Some(self.communicator.begin_after(&posted.ready, &call)?),
                };
                received.begun.insert(posted.number, in_flight);
            }
            None => {
                let staged = Tensor::empty([header.count], (header.kind, self.communicator.watch().backend.device()));
                let call = Call::Recv {
                    into: &staged,
                    from: SENDER,
                };
                let in_flight = match header.count {
                    0 => None,
                    _ => Some(self.communicator.begin(&call)?),
                };
                received.staged.entry(header.tag).or_default().push_back((staged, in_flight));
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

/// What a sender announces.
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
            return Err(format!("{kind:?} is not sent; pass its bytes, `view_dtype(Kind::Uint8)`"));
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
        header.ok_or_else(|| format!("a header of a transfer that is none: {numbers:?}"))
    }
}

/// A link's first transfer connects both ends, and waits on the host until it has. It is done where links are made, in
/// an order that all ranks share: in the middle of a step two ranks could wait for each other.
fn connect<B: Backend>(communicator: &Communicator<B>, call: impl for<'a> FnOnce(&'a Tensor) -> Call<'a>) -> Result<(), CommError> {
    let nothing = Tensor::zeros([1], (Kind::Uint8, communicator.watch().backend.device()));
    communicator.begin(&call(&nothing))?.wait()
}

fn header_tag(count: u64) -> u32 {
    // Far fewer headers are under way at once.
    HEADERS + (count % u64::from(HEADERS - 1)) as u32
}

fn pop<T>(queues: &mut BTreeMap<u32, VecDeque<T>>, tag: u32) -> Option<T> {
    let queue = queues.get_mut(&tag)?;
    let first = queue.pop_front();
    if queue.is_empty() {
        queues.remove(&tag);
    }
    first
}

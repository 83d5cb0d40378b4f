//! A client that loses connections.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use kube::Client;

use crate::fixture::Loss;

/// Losses that are still to come.
#[derive(Clone, Default)]
pub(super) struct Losses(Arc<Mutex<VecDeque<Loss>>>);

impl Losses {
    /// Loses the next requests or replies.
    pub(super) fn lose(&self, losses: &[Loss]) {
        self.0.lock().unwrap().extend(losses);
    }

    /// Returns a client that passes everything on to `inner`, and loses some of it.
    pub(super) fn client(&self, inner: Client) -> Client {
        let (losses, namespace) = (self.clone(), inner.default_namespace().to_owned());
        let service = tower::service_fn(move |request| {
            let (inner, loss) = (inner.clone(), losses.0.lock().unwrap().pop_front());
            async move {
                let lost = |reason: &str| io::Error::new(io::ErrorKind::ConnectionReset, reason);
                match loss {
                    Some(Loss::OfRequest) => Err(lost("the request did not arrive")),
                    Some(Loss::OfReply) => {
                        inner.send(request).await.map_err(io::Error::other)?;
                        Err(lost("the reply did not arrive"))
                    }
                    None => inner.send(request).await.map_err(io::Error::other),
                }
            }
        });
        Client::new(service, namespace)
    }
}

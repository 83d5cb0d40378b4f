//! Images of a container runtime.

use std::pin::pin;

use bollard::{errors::Error, query_parameters::CreateImageOptionsBuilder};
use futures_util::StreamExt as _;

use super::{api::Runtime, refusal};
use crate::{container_error::ContainerError, error::ExecutorError};

impl Runtime {
    /// Returns whether an image is on this machine.
    ///
    /// # Errors
    /// The runtime cannot be reached.
    pub async fn has_image(&self, image: &str) -> Result<bool, ExecutorError> {
        match self.connect().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(self.failed("look for the image", error)),
        }
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// No registry has it, or it cannot be reached.
    pub async fn pull(&self, image: &str) -> Result<(), ExecutorError> {
        let docker = self.connect().await?;
        let options = CreateImageOptionsBuilder::default().from_image(image).build();
        let mut lines = pin!(docker.create_image(Some(options), None, None));
        let no_image = |words: String| ContainerError::NoImage {
            image: image.to_owned(),
            words,
        };
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => {
                    if let Some(error) = line.error_detail.and_then(|error| error.message) {
                        return Err(no_image(refusal::words(&error)).into());
                    }
                }
                Err(Error::DockerResponseServerError { message, .. }) => return Err(no_image(refusal::words(&message)).into()),
                Err(Error::DockerStreamError { error }) => return Err(no_image(refusal::words(&error)).into()),
                Err(error) => return Err(self.failed("pull the image", error)),
            }
        }
        if self.has_image(image).await? {
            Ok(())
        } else {
            Err(no_image("the runtime gave no reason".to_owned()).into())
        }
    }
}

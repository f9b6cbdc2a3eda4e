//! The door to threads: work started here is aborted when its handle is dropped, and its panic becomes an error.

use std::future::Future;

use datafusion::common::runtime::SpawnedTask;

use crate::error::{Error, Result};

/// Runs `work` on a thread where it may block, and waits for it.
pub async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let task = SpawnedTask::spawn_blocking(work);
    task.join().await.map_err(|error| panicked(what, error.is_panic().then(|| error.into_panic())))?
}

/// Runs a future as a task of its own, so that it gets a thread of its own, and waits for it.
pub async fn task<T: Send + 'static>(what: &str, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let task = SpawnedTask::spawn(work);
    task.join().await.map_err(|error| panicked(what, error.is_panic().then(|| error.into_panic())))?
}

fn panicked(what: &str, payload: Option<Box<dyn std::any::Any + Send>>) -> Error {
    let Some(payload) = payload else { return Error::internal(format!("{what} was cancelled")) };
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned();
    Error::internal(format!("{what} panicked")).caused_by(text).hint("this is a bug: please report it with the input that shows it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let error = blocking::<()>("hashing", || panic!("boom {}", 1)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.report().contains("boom 1"), "{}", error.report());
    }
}

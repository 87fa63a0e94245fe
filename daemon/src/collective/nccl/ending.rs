//! The thread that ends a communicator. Whoever wants its end only says so: an abort may take its time, or hang, and
//! neither the session nor the device thread waits for it without bound.

use super::communicator::Communicator;
use crate::collective::{AbortHandle, CollectiveError, End};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tch::Device;

/// The device thread waits so long for an abort that it has asked for.
const ABORTING: Duration = Duration::from_secs(3);

/// The thread's other end.
pub(super) struct Ending {
    sender: Sender<End>,
    ended: Receiver<()>,
}

impl Ending {
    /// Starts the thread, which also hears of the group's abort.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(
        communicator: &Arc<Communicator>,
        device: Device,
        abort: &AbortHandle,
    ) -> Result<Self, CollectiveError> {
        let (sender, wishes) = channel();
        let (say, ended) = channel();
        let communicator = Arc::clone(communicator);
        let wait = move || {
            if let Err(error) = super::enter(device) {
                tracing::warn!(%error, "a communicator's end is made without its device");
            }
            if wishes.recv() != Ok(End::Abort) {
                return;
            }
            if let Err(error) = communicator.abort() {
                tracing::warn!(%error, "an abort did not go well");
            }
            // Nobody may be waiting.
            say.send(()).ok();
        };
        std::thread::Builder::new()
            .name("end-nccl".into())
            .spawn(wait)
            .map_err(|error| CollectiveError::Device(error.to_string()))?;
        abort.tell(sender.clone());
        Ok(Self { sender, ended })
    }

    /// Has the communicator aborted, and waits until it is: then nothing touches the tensors any more.
    pub(super) fn abort(&self) {
        // The thread may have been told before, and be gone.
        self.sender.send(End::Abort).ok();
        if self.ended.recv_timeout(ABORTING) == Err(RecvTimeoutError::Timeout) {
            let waited = humantime::format_duration(ABORTING);
            tracing::error!("NCCL's abort has not returned for {waited}; going on without it");
        }
    }

    /// Lets the thread go: the communicator was ended.
    pub(super) fn over(&self) {
        self.sender.send(End::Over).ok();
    }
}

//! How the device thread waits for NCCL and the device: it looks, and between looks it sleeps, longer and longer.

use std::time::Duration;

/// The first looks come without a pause: most operations are short.
const LOOKS: u32 = 50;
/// The first pause, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// Pauses between looks.
#[derive(Debug, Default)]
pub(super) struct Looks {
    made: u32,
    pause: Duration,
}

impl Looks {
    /// Waits until the next look.
    #[expect(clippy::disallowed_methods, reason = "what a device does has no event to wait for")]
    pub(super) fn next(&mut self) {
        self.made = self.made.saturating_add(1);
        if self.made < LOOKS {
            std::thread::yield_now();
            return;
        }
        let [first, longest] = PAUSES;
        // An eighth longer each time, so that what took long is not waited for much longer than it took.
        self.pause = (self.pause + self.pause / 8).clamp(first, longest);
        std::thread::sleep(self.pause);
    }
}

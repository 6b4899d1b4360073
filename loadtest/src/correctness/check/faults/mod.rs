//! Faults, as they are really injected.

mod edge;
mod foundation;

use std::time::Duration;

use anyhow::{Result, bail};
use fastrand::Rng;
use tokio::time::sleep;

use super::{
    history::{Event, Phase},
    platform::{NetworkPath, Platform},
    proxy::Link,
    schedule::{Fault, Step},
};

impl Platform {
    /// Injects a fault and undoes it. Whether it really took place.
    pub(crate) async fn inject(&self, step: Step) -> Result<bool> {
        let mut random = Rng::with_seed(step.seed);
        let fault = step.fault;
        match fault {
            Fault::NodeKill | Fault::NodeTerm | Fault::NodePause => self.node(fault, &mut random).await,
            Fault::PubsubCut | Fault::MasterKill | Fault::MasterPause | Fault::Partition | Fault::Failover | Fault::SlotMove
                if self.servers.is_some() =>
            {
                self.replicas(fault, &mut random).await
            }
            Fault::MasterKill | Fault::MasterPause | Fault::Partition | Fault::Failover | Fault::SlotMove => {
                bail!("there are no servers with replicas")
            }
            Fault::RedisKill | Fault::RedisPause | Fault::PubsubCut | Fault::AofCut | Fault::RedisWipe => {
                self.redis(fault, &mut random).await
            }
            Fault::PostgresStop | Fault::PostgresPause => self.postgres(fault, &mut random).await,
            Fault::LogStall => self.stall_log(&mut random).await,
            Fault::LogCut => self.cut_log(&mut random).await,
            Fault::LogRestore => self.restore_log(&mut random).await,
            Fault::BackupRestore => self.restore_backup(&mut random).await,
            Fault::UdpLoss | Fault::UdpBlackhole | Fault::UdpMangle | Fault::UdpMove => self.udp(fault, &mut random).await,
            Fault::TcpCut | Fault::TcpStall => self.tcp(fault, &mut random).await,
            Fault::DeviceKill | Fault::DeviceTear | Fault::DeviceFlip => self.device(fault, &mut random).await,
            Fault::ConsumerKill => self.consumer(&mut random).await,
            Fault::ConsumerPause => self.slow(&mut random).await,
            Fault::Revoke => self.revoke(&mut random).await,
        }
    }

    fn mark(&self, fault: Fault, phase: Phase, what: &str) {
        self.harness.put(Event::Fault { fault: fault.name().into(), phase, what: what.to_owned() });
    }

    fn note(&self, what: String) {
        self.harness.put(Event::Note { what });
    }

    /// Every UDP link, one after the other.
    pub(super) async fn links(&self, mut each: impl AsyncFnMut(&Link)) {
        for device in &self.devices {
            each(&device.lock().await.link).await;
        }
        for consumer in &self.consumers {
            if let NetworkPath::Link(link) = &consumer.lock().await.path {
                each(link).await;
            }
        }
    }
}

async fn pause(random: &mut Rng, millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(random.u64(millis))).await;
}

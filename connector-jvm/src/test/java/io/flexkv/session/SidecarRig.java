package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.cache.CacheConfig;
import io.flexkv.device.ProcessMemoryDevice;
import io.flexkv.protocol.RequestException;
import io.flexkv.tier.HostPool;
import io.flexkv.transfer.MoveLimits;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.function.BooleanSupplier;

/** Rendezvous and cache thread of a sidecar in this JVM, over a real socket. */
final class SidecarRig {
  static final int MAX_SESSIONS = 6;

  final Path socketPath;
  final BootIdentity identity = BootIdentity.create("test", "");
  final CacheAgent agent;
  final SessionControl control;
  final RendezvousServer rendezvous;
  private final AddressLock lock;
  private final Thread agentThread;
  private final Thread rendezvousThread;

  SidecarRig(Path folder) throws Exception {
    this(folder, ProcessMemoryDevice::open);
  }

  SidecarRig(Path folder, SessionControl.DeviceOpener devices) throws Exception {
    this(folder, devices, 5_000_000_000L);
  }

  SidecarRig(Path folder, SessionControl.DeviceOpener devices, long proofDrainNanos)
      throws Exception {
    socketPath = folder.resolve("s");
    lock = AddressLock.take(socketPath, 0);
    HostPool pool = HostPool.create("test", 16 << 20, 64 << 10, Arena.ofAuto());
    agent = new CacheAgent(identity, new HostSlots(pool, 0), CacheConfig.defaults(), 50_000);
    control = new SessionControl(agent, devices, new MoveLimits(), proofDrainNanos);
    rendezvous =
        RendezvousServer.create(lock.listen(), identity, "tcp://127.0.0.1:1", agent, MAX_SESSIONS);
    agentThread = Thread.ofPlatform().daemon().name("cache").start(agent);
    rendezvousThread = Thread.ofPlatform().daemon().name("rendezvous").start(rendezvous);
  }

  long agentThreadId() {
    return agentThread.threadId();
  }

  JsonNode status() throws RequestException {
    return control.status();
  }

  /** A number of the status; 0 where there is none. */
  long count(String pointer) {
    return at(pointer).asLong();
  }

  /** A text of the status, likewise. */
  String text(String pointer) {
    return at(pointer).asText();
  }

  private JsonNode at(String pointer) {
    try {
      return status().at(pointer);
    } catch (RequestException e) {
      throw new AssertionError(e);
    }
  }

  /** Waits for something that other threads bring about. */
  static void await(String what, BooleanSupplier condition) throws InterruptedException {
    long deadline = System.nanoTime() + 10_000_000_000L;
    while (!condition.getAsBoolean()) {
      if (System.nanoTime() > deadline) {
        throw new AssertionError("waited 10 s for: " + what);
      }
      Thread.sleep(2);
    }
  }

  void close() throws Exception {
    rendezvous.close();
    rendezvousThread.join(5000);
    agent.stop();
    agentThread.join(5000);
    lock.close();
    if (agentThread.isAlive() || rendezvousThread.isAlive()) {
      throw new AssertionError("a thread of the sidecar did not end");
    }
  }
}

package io.flexkv.session;

import java.security.SecureRandom;
import java.util.HexFormat;

/**
 * What one life of the sidecar is known by.
 *
 * @param bootEpoch random, never 0; every lease, job and answer belongs to one
 * @param pid of this process
 * @param controlToken 256 random bits in hex; whoever has it may use the control plane
 * @param build shown to clients
 * @param logFile where this process logs, empty if nowhere
 */
public record BootIdentity(
    long bootEpoch, int pid, String controlToken, String build, String logFile) {
  /** A new life. */
  public static BootIdentity create(String build, String logFile) {
    SecureRandom random = new SecureRandom();
    long epoch;
    do {
      epoch = random.nextLong();
    } while (epoch == 0);
    byte[] token = new byte[32];
    random.nextBytes(token);
    return new BootIdentity(
        epoch,
        Math.toIntExact(ProcessHandle.current().pid()),
        HexFormat.of().formatHex(token),
        build,
        logFile);
  }

  /** Sixteen hex digits. */
  public String epochText() {
    return HexFormat.of().toHexDigits(bootEpoch);
  }

  /** Without the token: this ends up in logs. */
  @Override
  public String toString() {
    return "epoch " + epochText() + " pid " + pid;
  }
}

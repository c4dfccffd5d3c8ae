package io.flexkv.transfer;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Which processor a bench's threads run on, by the system's own {@code taskset}. Rows that need a
 * copy each cost the driver 0.45 or 0.85 microseconds, by whether another thread keeps the other
 * half of the core busy, which a virtual machine does not show and may be somebody else's. Two
 * sides are compared on one processor, or by chance one has the better one.
 */
final class BenchCpus {
  private static final String ALLOWED = "Cpus_allowed_list:";

  private final String all;
  private final List<Integer> each = new ArrayList<>();
  private boolean moved = true;

  BenchCpus() throws IOException {
    all =
        Files.readAllLines(Path.of("/proc/self/status")).stream()
            .filter(line -> line.startsWith(ALLOWED))
            .map(line -> line.substring(ALLOWED.length()).strip())
            .findFirst()
            .orElseThrow(() -> new IOException("/proc/self/status has no " + ALLOWED));
    for (String range : all.split(",", -1)) {
      String[] ends = range.split("-", -1);
      for (int i = Integer.parseInt(ends[0]); i <= Integer.parseInt(ends[ends.length - 1]); i++) {
        each.add(i);
      }
    }
  }

  /** Another one for each number, not the first, where interrupts go. */
  String one(int number) {
    return each.size() == 1 ? all : Integer.toString(each.get(1 + number % (each.size() - 1)));
  }

  /** Whether all went where they were told to. */
  boolean moved() {
    return moved;
  }

  /** All that this process may use. */
  String all() {
    return all;
  }

  /** Threads that this one starts from now on run there, and so does it. */
  void moveThisThread(String cpus) throws IOException {
    move(Path.of("/proc/thread-self").toRealPath().getFileName().toString(), cpus);
  }

  /** A thread, or a process that has but one, runs there. */
  void move(String id, String cpus) throws IOException {
    try {
      Process taskset =
          new ProcessBuilder("taskset", "-cp", cpus, id).redirectErrorStream(true).start();
      String output = new String(taskset.getInputStream().readAllBytes(), UTF_8);
      if (taskset.waitFor() != 0) {
        throw new IOException(output.strip());
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } catch (IOException e) {
      if (moved) {
        moved = false;
        System.err.println("sides may run on different processors: " + e.getMessage());
      }
    }
  }
}

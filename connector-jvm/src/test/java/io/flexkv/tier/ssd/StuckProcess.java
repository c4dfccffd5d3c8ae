package io.flexkv.tier.ssd;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/**
 * What a process is at that does not end: the kernel's view of its threads, and the virtual
 * machine's own.
 *
 * <p>A thread that is ready to run and gets no time ({@code R}, few ticks between two looks) is the
 * machine's doing; one that sleeps ({@code S}) waits for another of the process; one in {@code D}
 * waits for the disk. A virtual machine on its way out answers no signal, the kernel always does.
 */
final class StuckProcess {
  private static final int DUMP_SECONDS = 10;

  private StuckProcess() {}

  /**
   * Describes a child.
   *
   * @param said where its output goes, and so its thread dump
   */
  static String describe(ProcessHandle child, Path said) throws IOException, InterruptedException {
    StringBuilder text = new StringBuilder("load " + read(Path.of("/proc/loadavg")));
    threads(child.pid(), text);
    long before = Files.size(said);
    new ProcessBuilder("kill", "-QUIT", Long.toString(child.pid())).start().waitFor();
    boolean ended = false;
    for (int i = 0; i < DUMP_SECONDS && !ended && !dumped(said, before); i++) {
      ended = waitFor(child);
    }
    return text.append("-- its output, with its threads where it answered\n")
        .append(read(said))
        .toString();
  }

  private static boolean dumped(Path said, long before) throws IOException {
    return Files.size(said) > before && read(said).contains("JNI global refs");
  }

  private static boolean waitFor(ProcessHandle child) throws InterruptedException {
    TimeUnit.SECONDS.sleep(1); // between two looks at a file; what it waits for is bounded
    return !child.isAlive();
  }

  private static void threads(long pid, StringBuilder text) throws IOException {
    List<Path> tasks;
    try (Stream<Path> listed = Files.list(Path.of("/proc", Long.toString(pid), "task"))) {
      tasks = listed.sorted().toList();
    } catch (java.nio.file.NoSuchFileException e) {
      text.append("-- it has just ended\n");
      return;
    }
    for (Path task : tasks) {
      String stat = read(task.resolve("stat"));
      String[] words = stat.substring(stat.lastIndexOf(')') + 1).strip().split(" ", -1);
      // state, user and system ticks: fields 3, 14 and 15 of proc(5)
      text.append(
          "%s %-16s %s ticks %s+%s in %s, call %s%n"
              .formatted(
                  task.getFileName(),
                  read(task.resolve("comm")).strip(),
                  words[0],
                  words.length > 12 ? words[11] : "?",
                  words.length > 12 ? words[12] : "?",
                  read(task.resolve("wchan")).strip(),
                  read(task.resolve("syscall")).strip()));
    }
  }

  /** What a file says, or why it cannot be read: a thread may end meanwhile. */
  private static String read(Path file) {
    try {
      return Files.readString(file);
    } catch (IOException e) {
      return e + "\n";
    }
  }
}

package io.flexkv.protocol;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.MemorySegment;
import java.util.HexFormat;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.random.RandomGenerator;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** The shim's protocol.py and the Java codec write and read the same bytes. */
class PythonConformanceTest {
  private static final int ROUNDS = 12;
  private static final long SEED = Long.getLong("flexkv.seed", new Random().nextLong());
  private static final HexFormat HEX = HexFormat.of();
  private static PythonProtocol python;

  @BeforeAll
  static void start() throws Exception {
    python = new PythonProtocol();
  }

  @AfterAll
  static void stop() {
    python.close();
  }

  @Test
  void everyRecordOfPython_hasACase() {
    String names =
        python.eval("' '.join(sorted(c.__name__ for c in p.RECORD_CLASSES.values()))").asString();
    assertThat(names.split(" ")).containsExactlyInAnyOrderElementsOf(RecordCase.all().keySet());
  }

  @TestFactory
  Stream<DynamicTest> records_fixedAndRandom_sameBytesBothWays() {
    return RecordCase.all().values().stream()
        .map(c -> DynamicTest.dynamicTest(c.name + " seed=" + SEED, () -> compare(c)));
  }

  private static void compare(RecordCase c) throws ProtocolException {
    compare(c, new SplittableRandom(1));
    SplittableRandom random = new SplittableRandom(SEED ^ c.name.hashCode());
    for (int i = 1; i < ROUNDS; i++) {
      compare(c, random);
    }
  }

  private static void compare(RecordCase c, RandomGenerator random) throws ProtocolException {
    RecordCase.Fields fields = c.random(random);
    String text = fields.text();
    byte[] ours = c.encode(fields);
    assertThat(HEX.formatHex(ours)).as(c.name).isEqualTo(python.encode(c.name, text));
    assertThat(python.decode(HEX.formatHex(ours))).isEqualTo(c.name + " " + text);
    assertThat(c.decode(ours)).isEqualTo(c.name + " " + text);
  }

  @TestFactory
  Stream<DynamicTest> records_damaged_bothSidesJudgeAlike() {
    return RecordCase.all().values().stream()
        .map(c -> DynamicTest.dynamicTest(c.name + " seed=" + SEED, () -> compareDamaged(c)));
  }

  private static void compareDamaged(RecordCase c) {
    SplittableRandom random = new SplittableRandom(SEED + c.name.hashCode());
    for (int i = 0; i < 2 * ROUNDS; i++) {
      byte[] bytes = Damage.damage(c.encode(c.random(random)), random);
      String ours;
      try {
        ours = c.decode(bytes);
      } catch (ProtocolException e) {
        ours = "ProtocolError";
      }
      String theirs = python.decode(HEX.formatHex(bytes));
      if (!theirs.equals("ProtocolError") && !theirs.startsWith(c.name + " ")) {
        theirs = "ProtocolError"; // the damage made another type of it, which our view refuses
      }
      assertThat(ours).as(HEX.formatHex(bytes)).isEqualTo(theirs);
    }
  }

  @Test
  void sessionFile_headerOfPython_isReadAndWrittenAlike() throws ProtocolException {
    SplittableRandom random = new SplittableRandom(SEED);
    for (int i = 0; i < ROUNDS; i++) {
      var geometry =
          new SessionFileDescriptor.Geometry(
              1 + random.nextInt(3),
              1 + random.nextInt(1 << 22),
              4096L << random.nextInt(8),
              4096L << random.nextInt(8),
              random.nextInt(300),
              random.nextInt(300));
      String header =
          python
              .eval(
                  "p.SessionLayout(%d, %d, %d, %d, %d, %d).header().hex()"
                      .formatted(
                          geometry.role(),
                          geometry.clientPid(),
                          geometry.toServerCapacity(),
                          geometry.toClientCapacity(),
                          geometry.revokeCount(),
                          geometry.fenceCount()))
              .asString();
      byte[] file = new byte[(int) geometry.totalBytes()];
      SessionFileDescriptor.writeGeometry(MemorySegment.ofArray(file), geometry);
      assertThat(HEX.formatHex(file, 0, header.length() / 2)).isEqualTo(header);
      assertThat(SessionFileDescriptor.geometry(MemorySegment.ofArray(file))).isEqualTo(geometry);
    }
  }

  @Test
  void constants_ofBothSides_areEqual() {
    assertThat(python.eval("p.OFF_TO_SERVER_TAIL").asInt())
        .isEqualTo(SessionFileDescriptor.TO_SERVER_TAIL);
    assertThat(python.eval("p.OFF_TO_SERVER_HEAD").asInt())
        .isEqualTo(SessionFileDescriptor.TO_SERVER_HEAD);
    assertThat(python.eval("p.OFF_TO_CLIENT_TAIL").asInt())
        .isEqualTo(SessionFileDescriptor.TO_CLIENT_TAIL);
    assertThat(python.eval("p.OFF_TO_CLIENT_HEAD").asInt())
        .isEqualTo(SessionFileDescriptor.TO_CLIENT_HEAD);
    assertThat(python.eval("p.OFF_SLEEPING").asInt()).isEqualTo(SessionFileDescriptor.SLEEPING);
    assertThat(python.eval("p.MAX_RECORD_BYTES").asInt()).isEqualTo(Protocol.MAX_RECORD_BYTES);
    assertThat(python.eval("p.MAX_KEYS_A_RECORD").asInt()).isEqualTo(Protocol.MAX_KEYS_A_RECORD);
    assertThat(python.eval("p.MAX_BLOCKS_A_PLAN").asInt()).isEqualTo(Protocol.MAX_BLOCKS_A_PLAN);
    assertThat(python.eval("p.MAX_FRAME_BYTES").asInt()).isEqualTo(Protocol.MAX_FRAME_BYTES);
    assertThat(python.eval("p.NO_INDEX").asLong()).isEqualTo(Protocol.NO_INDEX);
    assertThat(python.eval("p.job_id(5, 9)").asLong()).isEqualTo(Protocol.jobId(5, 9));
    assertThat(python.eval("p.FRAME_RECORDS").asInt()).isEqualTo(FrameDescriptor.RECORDS);
  }

  @Test
  void generationFile_headerOfPython_isReadAndWrittenAlike() throws ProtocolException {
    byte[] file = new byte[(int) GenerationFileDescriptor.totalBytes(77)];
    GenerationFileDescriptor.writeHeader(MemorySegment.ofArray(file), 77);
    assertThat(HEX.formatHex(file, 0, 16))
        .isEqualTo(python.eval("p.generation_header(77).hex()").asString());
    assertThat(GenerationFileDescriptor.entries(MemorySegment.ofArray(file))).isEqualTo(77);
  }

  @Test
  void proofPattern_ofPython_isTheSame() {
    SplittableRandom random = new SplittableRandom(SEED);
    for (int i = 0; i < ROUNDS; i++) {
      long seed = random.nextLong(Long.MAX_VALUE);
      int region = random.nextInt(200);
      int block = random.nextInt(1 << 20);
      int length = random.nextInt(300);
      assertThat(HEX.formatHex(ProofPattern.bytes(seed, region, block, length)))
          .isEqualTo(
              python
                  .eval(
                      "p.proof_bytes(%d, %d, %d, %d).hex()".formatted(seed, region, block, length))
                  .asString());
    }
  }

  @Test
  void frames_headerOfPython_isTheSame() throws ProtocolException {
    byte[] payload = "{\"a\":1}".getBytes(java.nio.charset.StandardCharsets.US_ASCII);
    byte[] ours = FrameDescriptor.encode(FrameDescriptor.REFUSED, payload);
    assertThat(HEX.formatHex(ours))
        .isEqualTo(python.eval("p.encode_frame(p.FRAME_REFUSED, b'{\"a\":1}').hex()").asString());
    FrameDescriptor.checkHeader(MemorySegment.ofArray(ours));
    assertThat(FrameDescriptor.payloadBytes(MemorySegment.ofArray(ours))).isEqualTo(7);
  }
}

package io.flexkv.events;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.protocol.ExtendRecord;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.TreeMap;
import org.junit.jupiter.api.RepeatedTest;
import org.junit.jupiter.api.RepetitionInfo;
import org.junit.jupiter.api.Test;

/** What schedulers hear, against what is there. */
class EventHubTest {
  private static final int B = 4;
  private static final int WIDTH = 32;
  private static final int HOST = Protocol.TIER_HOST;
  private static final int SSD = Protocol.TIER_SSD;
  private static final long SEED = Long.getLong("flexkv.seed", new Random().nextLong());

  private final EventHub hub = new EventHub();
  private final MemorySegment scratch = MemorySegment.ofArray(new byte[Protocol.MAX_RECORD_BYTES]);

  // ------------------------------------------------------------------ helpers

  /** Learns blocks [first, end) of chain {@code chain}; their tokens follow from their names. */
  private void learn(int chain, int first, int end, String extra) throws ProtocolException {
    int from = Math.max(0, first - 1);
    ByteBuffer hashes = ByteBuffer.allocate(WIDTH * (end - from));
    for (int block = from; block < end; block++) {
      hashes.position((block - from + 1) * WIDTH - 8).putLong(hash(chain, block));
    }
    ByteBuffer tokens = ByteBuffer.allocate(4 * B * (end - first)).order(ByteOrder.LITTLE_ENDIAN);
    ByteBuffer extras = ByteBuffer.allocate(4096).order(ByteOrder.LITTLE_ENDIAN);
    for (int block = first; block < end; block++) {
      token(chain, block).forEach(tokens::putInt);
      if (!extra.isEmpty()) {
        extras.putInt(extra.length()).put(extra.getBytes(StandardCharsets.UTF_8));
      }
    }
    byte[] keys = new byte[extras.position()];
    extras.flip().get(keys);
    learn(ExtendRecord.encode(scratch, 1, from, WIDTH, hashes.array(), tokens.array(), keys));
  }

  private void learn(int length) throws ProtocolException {
    ExtendRecord record = new ExtendRecord();
    record.wrap(scratch, length);
    hub.learn(0, 0, B, record);
  }

  private static long hash(int chain, int block) {
    return (long) (chain + 1) << 32 | block;
  }

  private static List<Integer> token(int chain, int block) {
    List<Integer> tokens = new ArrayList<>();
    for (int i = 0; i < B; i++) {
      tokens.add(chain * 1000 + block * B + i);
    }
    return tokens;
  }

  private NoticeReader subscribe(int id) {
    NoticeReader reader = new NoticeReader();
    hub.subscribe(id, 0, B, reader);
    return reader;
  }

  private void settle(int id, NoticeReader reader) throws ProtocolException {
    do {
      reader.read(Integer.MAX_VALUE);
      hub.taken(id, reader.taken, false);
    } while (hub.pump() > 0);
  }

  // ------------------------------------------------------------------ tests

  @Test
  void stored_chain_isTold_withParentsTokensAndExtraKeys() throws Exception {
    NoticeReader reader = subscribe(1);
    learn(5, 0, 3, "lora");
    for (int block = 0; block < 3; block++) {
      hub.stored(0, HOST, 0, hash(5, block));
    }
    settle(1, reader);
    assertThat(reader.announced)
        .containsOnlyKeys(
            NoticeReader.name(HOST, hash(5, 0)),
            NoticeReader.name(HOST, hash(5, 1)),
            NoticeReader.name(HOST, hash(5, 2)));
    assertThat(reader.announced.get(NoticeReader.name(HOST, hash(5, 0))))
        .isEqualTo(new NoticeReader.Said(null, token(5, 0), "lora"));
    assertThat(reader.announced.get(NoticeReader.name(HOST, hash(5, 2))))
        .isEqualTo(new NoticeReader.Said(hash(5, 1), token(5, 2), "lora"));
  }

  @Test
  void stored_laterPartOfChain_saysItsParent() throws Exception {
    NoticeReader reader = subscribe(1);
    learn(5, 7, 8, "");
    hub.stored(0, SSD, 0, hash(5, 7));
    settle(1, reader);
    assertThat(reader.announced.get(NoticeReader.name(SSD, hash(5, 7))))
        .isEqualTo(new NoticeReader.Said(hash(5, 6), token(5, 7), ""));
  }

  @Test
  void stored_withoutFacts_isCountedNotTold() throws Exception {
    NoticeReader reader = subscribe(1);
    hub.stored(0, HOST, 0, 77);
    settle(1, reader);
    assertThat(reader.announced).isEmpty();
    assertThat(hub.counters().blocksWithoutFacts()).isEqualTo(1);
  }

  @Test
  void tiers_ofOneBlock_comeAndGoByThemselves() throws Exception {
    NoticeReader reader = subscribe(1);
    learn(1, 0, 1, "");
    hub.stored(0, HOST, 0, hash(1, 0));
    hub.stored(0, SSD, 0, hash(1, 0));
    settle(1, reader);
    hub.evicted(0, HOST, 0, hash(1, 0));
    settle(1, reader);
    assertThat(reader.announced).containsOnlyKeys(NoticeReader.name(SSD, hash(1, 0)));
    hub.stored(0, HOST, 0, hash(1, 0));
    hub.evicted(0, SSD, 0, hash(1, 0));
    settle(1, reader);
    assertThat(reader.announced).containsOnlyKeys(NoticeReader.name(HOST, hash(1, 0)));
    hub.evicted(0, HOST, 0, hash(1, 0));
    settle(1, reader);
    assertThat(reader.announced).isEmpty();
    assertThat(hub.knownBlocks()).isZero();
  }

  @Test
  void subscriber_thatComesLate_getsAListingOfAllTiers_parentsFirst() throws Exception {
    learn(1, 0, 300, "");
    for (int block = 0; block < 300; block++) {
      hub.stored(0, HOST, 0, hash(1, block));
      if (block < 100) {
        hub.stored(0, SSD, 0, hash(1, block));
      }
    }
    NoticeReader reader = subscribe(2);
    settle(2, reader);
    assertThat(reader.announced).hasSize(400);
    assertThat(reader.listings).isEqualTo(1);
    for (int block = 0; block < 300; block++) {
      assertThat(reader.log.get(block)).isEqualTo("+" + NoticeReader.name(HOST, hash(1, block)));
    }
  }

  @Test
  void flush_duringAListing_tellsChangesAndDoesNotWalkAllBlocks() throws Exception {
    for (int chain = 0; chain < 20_000; chain++) {
      learn(chain, 0, 1, "");
      hub.stored(0, SSD, 0, hash(chain, 0));
    }
    hub.stored(0, HOST, 0, hash(19_999, 0));
    NoticeReader reader = subscribe(1);
    hub.pump();
    learn(30_000, 0, 1, "");
    hub.stored(0, HOST, 0, hash(30_000, 0));
    hub.flush(1);
    reader.read(Integer.MAX_VALUE);
    assertThat(reader.announced)
        .as("the host tier's other block comes 20 000 blocks later")
        .containsOnlyKeys(NoticeReader.name(HOST, hash(30_000, 0)));
    settle(1, reader);
    assertThat(reader.announced).hasSize(20_002);
  }

  @Test
  void listing_whoseNextBlockIsEvicted_goesOnBehindIt() throws Exception {
    for (int chain = 0; chain < 3; chain++) {
      learn(chain, 0, 1, "");
      hub.stored(0, HOST, 0, hash(chain, 0));
    }
    NoticeReader reader = subscribe(1);
    reader.room = 2; // the beginning and the first block
    hub.pump();
    hub.evicted(0, HOST, 0, hash(1, 0));
    reader.room = Integer.MAX_VALUE;
    settle(1, reader);
    assertThat(reader.announced)
        .containsOnlyKeys(NoticeReader.name(HOST, hash(0, 0)), NoticeReader.name(HOST, hash(2, 0)));
  }

  @Test
  void subscriber_thatTakesNothing_getsNoMoreThanItsWindow() throws Exception {
    NoticeReader reader = subscribe(1);
    for (int chain = 0; chain < 500; chain++) {
      learn(chain, 0, 1, "");
      hub.stored(0, HOST, 0, hash(chain, 0));
      while (hub.pump() > 0) {
        assertThat(reader.ring.size()).isLessThanOrEqualTo(Subscriber.WINDOW_NOTICES);
      }
    }
    assertThat(reader.ring).hasSize(Subscriber.WINDOW_NOTICES);
    settle(1, reader);
    assertThat(reader.announced).hasSize(500);
  }

  @Test
  void subscriber_overrunByTheJournal_isListedAnew_andMissesNothing() throws Exception {
    NoticeReader reader = subscribe(1);
    learn(1, 0, 1, "");
    hub.stored(0, HOST, 0, hash(1, 0));
    learn(2, 0, 1, "");
    hub.stored(0, HOST, 0, hash(2, 0));
    settle(1, reader);
    hub.evicted(0, HOST, 0, hash(2, 0));
    for (int i = 0; i < Journal.CAPACITY; i++) {
      hub.stored(0, SSD, 0, hash(1, 0));
      hub.evicted(0, SSD, 0, hash(1, 0));
    }
    settle(1, reader);
    assertThat(hub.counters().overruns()).isEqualTo(1);
    assertThat(reader.listings).isEqualTo(2);
    assertThat(reader.announced).containsOnlyKeys(NoticeReader.name(HOST, hash(1, 0)));
  }

  @Test
  void cleared_takesAllBack() throws Exception {
    NoticeReader reader = subscribe(1);
    learn(1, 0, 9, "");
    for (int block = 0; block < 9; block++) {
      hub.stored(0, HOST, 0, hash(1, block));
    }
    settle(1, reader);
    hub.cleared(0);
    learn(1, 0, 1, "");
    hub.stored(0, HOST, 0, hash(1, 0));
    settle(1, reader);
    assertThat(reader.announced).containsOnlyKeys(NoticeReader.name(HOST, hash(1, 0)));
    assertThat(reader.log).hasSize(9 + 9 + 1);
  }

  @Test
  void survivors_ofAnEarlierLife_areToldFromTheirOwnData() throws Exception {
    EventHub earlier = hub;
    learn(3, 0, 2, "lora");
    learn(4, 0, 1, "");
    for (long hash : new long[] {hash(3, 0), hash(3, 1), hash(4, 0)}) {
      earlier.stored(0, SSD, 0, hash);
    }
    EventHub later = new EventHub();
    for (long hash : new long[] {hash(3, 0), hash(3, 1), hash(4, 0), hash(9, 9)}) {
      later.offered(B, earlier.eventData(0, 0, hash, 3072));
      later.stored(0, SSD, 0, hash);
    }
    later.offered(B, new byte[0]);
    NoticeReader reader = new NoticeReader();
    later.subscribe(1, 0, B, reader);
    while (later.pump() > 0) {
      reader.read(Integer.MAX_VALUE);
    }
    assertThat(reader.announced)
        .containsOnlyKeys(
            NoticeReader.name(SSD, hash(3, 0)),
            NoticeReader.name(SSD, hash(3, 1)),
            NoticeReader.name(SSD, hash(4, 0)));
    assertThat(reader.announced.get(NoticeReader.name(SSD, hash(3, 1))))
        .isEqualTo(new NoticeReader.Said(hash(3, 0), token(3, 1), "lora"));
    assertThat(later.counters().blocksWithoutFacts()).isEqualTo(1);
  }

  @Test
  void survivors_damagedData_isNothing() {
    hub.offered(B, new byte[] {32, 0, 0, 0, 1, 2});
    hub.stored(0, SSD, 0, 5);
    assertThat(hub.knownBlocks()).isZero();
  }

  @Test
  void taken_moreThanWereSent_isRefused() {
    subscribe(1);
    assertThatThrownBy(() -> hub.taken(1, 5, false))
        .isInstanceOf(ProtocolException.class)
        .hasMessageContaining("5 notices taken");
  }

  @Test
  void learn_tokensOfHalfABlock_isRefused() {
    int length =
        ExtendRecord.encode(scratch, 1, 0, WIDTH, new byte[WIDTH], new byte[4], new byte[0]);
    assertThatThrownBy(() -> learn(length))
        .isInstanceOf(ProtocolException.class)
        .hasMessage("1 tokens for 1 blocks of 4");
  }

  @Test
  void learn_extraKeysThatEndEarly_isRefused() {
    int length =
        ExtendRecord.encode(
            scratch, 1, 0, WIDTH, new byte[WIDTH], new byte[4 * B], new byte[] {9, 0, 0, 0, 1});
    assertThatThrownBy(() -> learn(length))
        .isInstanceOf(ProtocolException.class)
        .hasMessage("extra keys of 9 bytes, 1 are left");
  }

  /** Random chains, tiers, resets, slow readers and late ones: in the end all agree. */
  @RepeatedTest(8)
  void randomLife_everySubscriberEndsUpWithWhatIsThere(RepetitionInfo run) throws Exception {
    long seed = SEED + run.getCurrentRepetition();
    SplittableRandom random = new SplittableRandom(seed);
    TreeMap<String, Boolean> model = new TreeMap<>();
    int[][] depth = new int[16][4];
    List<NoticeReader> readers = new ArrayList<>();
    for (int step = 0; step < 20_000; step++) {
      int chain = random.nextInt(depth.length);
      int tier = 1 + random.nextInt(2);
      int[] in = depth[chain];
      switch (random.nextInt(12)) {
        case 0, 1, 2, 3, 4 -> {
          int end = in[tier] + 1 + random.nextInt(5);
          learn(chain, in[tier], end, "");
          for (; in[tier] < end; in[tier]++) {
            hub.stored(0, tier, 0, hash(chain, in[tier]));
            model.put(NoticeReader.name(tier, hash(chain, in[tier])), true);
          }
        }
        case 5, 6, 7, 8 -> {
          for (int n = random.nextInt(6); n > 0 && in[tier] > 0; n--) {
            in[tier]--;
            hub.evicted(0, tier, 0, hash(chain, in[tier]));
            model.remove(NoticeReader.name(tier, hash(chain, in[tier])));
          }
        }
        case 9 -> {
          if (readers.size() < 4) {
            readers.add(subscribe(readers.size()));
          }
        }
        case 10 -> {
          if (random.nextInt(50) == 0) {
            hub.cleared(0);
            model.clear();
            depth = new int[16][4];
          }
        }
        default -> {
          for (int id = 0; id < readers.size(); id++) {
            NoticeReader reader = readers.get(id);
            reader.room = random.nextInt(8);
            reader.read(random.nextInt(10));
            hub.taken(id, reader.taken, random.nextInt(10) == 0);
          }
          hub.pump();
        }
      }
    }
    for (int id = 0; id < readers.size(); id++) {
      NoticeReader reader = readers.get(id);
      reader.room = Integer.MAX_VALUE;
      settle(id, reader);
      assertThat(reader.announced.keySet())
          .as("reader %d, seed %d", id, seed)
          .isEqualTo(model.keySet());
    }
  }
}

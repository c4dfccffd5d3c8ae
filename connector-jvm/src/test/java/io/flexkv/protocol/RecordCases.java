package io.flexkv.protocol;

import io.flexkv.protocol.RecordCase.Fields;
import java.nio.ByteBuffer;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.random.RandomGenerator;

/** Every record of the protocol; the names are those of the classes in protocol.py. */
final class RecordCases {
  static final Map<String, RecordCase> ALL = new LinkedHashMap<>();

  private RecordCases() {}

  private static void add(RecordCase recordCase) {
    ALL.put(recordCase.name, recordCase);
  }

  private static int count(RandomGenerator r, int most) {
    return r.nextInt(20) == 0 ? most : r.nextInt(40);
  }

  private static int width(RandomGenerator r) {
    return r.nextBoolean() ? 32 : Protocol.MIN_HASH_BYTES + r.nextInt(49);
  }

  static {
    add(
        RecordCase.of(
            "Extend",
            r -> {
              int width = width(r);
              return new Fields()
                  .with("request_id", RecordCase.u64(r))
                  .with("first_index", RecordCase.u32(r))
                  .with("hash_bytes", (long) width)
                  .with("hashes", RecordCase.bytes(r, width * count(r, 2000)))
                  .with("tokens", RecordCase.bytes(r, 4 * r.nextInt(50)))
                  .with("extra_keys", RecordCase.bytes(r, r.nextInt(30)));
            },
            (to, f) ->
                ExtendRecord.encode(
                    to,
                    f.num("request_id"),
                    f.i("first_index"),
                    f.i("hash_bytes"),
                    f.bytes("hashes"),
                    f.bytes("tokens"),
                    f.bytes("extra_keys")),
            ExtendRecord::new,
            view -> {
              ExtendRecord v = (ExtendRecord) view;
              long bytes = (long) v.count() * v.hashBytes();
              return new Fields()
                  .with("request_id", v.requestId())
                  .with("first_index", v.firstIndex())
                  .with("hash_bytes", (long) v.hashBytes())
                  .with("hashes", RecordCase.bytesOf(v, v.hashesOffset(), bytes))
                  .with("tokens", RecordCase.bytesOf(v, v.tokensOffset(), 4L * v.tokensCount()))
                  .with("extra_keys", RecordCase.bytesOf(v, v.extraOffset(), v.extraBytes()));
            }));
    add(
        RecordCase.of(
            "Lookup",
            r ->
                new Fields()
                    .with("query_id", RecordCase.u64(r))
                    .with("request_id", RecordCase.u64(r))
                    .with("chain_blocks", RecordCase.u32(r))
                    .with("first_block", RecordCase.u32(r))
                    .with("max_blocks", RecordCase.u32(r))
                    .with("group", RecordCase.u16(r)),
            (to, f) ->
                LookupRecord.encode(
                    to,
                    f.num("query_id"),
                    f.num("request_id"),
                    f.i("chain_blocks"),
                    f.i("first_block"),
                    f.i("max_blocks"),
                    f.i("group")),
            LookupRecord::new,
            view -> {
              LookupRecord v = (LookupRecord) view;
              return new Fields()
                  .with("query_id", v.queryId())
                  .with("request_id", v.requestId())
                  .with("chain_blocks", v.chainBlocks())
                  .with("first_block", v.firstBlock())
                  .with("max_blocks", v.maxBlocks())
                  .with("group", (long) v.group());
            }));
    add(
        RecordCase.of(
            "PlanLoad",
            r ->
                new Fields()
                    .with("job_id", RecordCase.u64(r))
                    .with("request_id", RecordCase.u64(r))
                    .with("lease_id", RecordCase.u64(r))
                    .with("generation", RecordCase.u32(r))
                    .with("first_block", RecordCase.u32(r))
                    .with("block_ids", RecordCase.ints(r, 1 + count(r, 8191)))
                    .with("group", RecordCase.u16(r)),
            (to, f) ->
                PlanLoadRecord.encode(
                    to,
                    f.num("job_id"),
                    f.num("request_id"),
                    f.num("lease_id"),
                    f.i("generation"),
                    f.i("first_block"),
                    f.ints("block_ids"),
                    f.i("group")),
            PlanLoadRecord::new,
            view -> {
              PlanLoadRecord v = (PlanLoadRecord) view;
              int[] ids = new int[v.count()];
              for (int i = 0; i < ids.length; i++) {
                ids[i] = v.blockId(i);
              }
              return new Fields()
                  .with("job_id", v.jobId())
                  .with("request_id", v.requestId())
                  .with("lease_id", v.leaseId())
                  .with("generation", v.generation())
                  .with("first_block", v.firstBlock())
                  .with("block_ids", ids)
                  .with("group", (long) v.group());
            }));
    add(
        RecordCase.of(
            "PlanSave",
            r -> {
              int n = 1 + count(r, 8191);
              return new Fields()
                  .with("job_id", RecordCase.u64(r))
                  .with("request_id", RecordCase.u64(r))
                  .with("first_block", RecordCase.u32(r))
                  .with("block_ids", RecordCase.ints(r, n))
                  .with("generations", r.longs(n).toArray())
                  .with("group", RecordCase.u16(r));
            },
            (to, f) ->
                PlanSaveRecord.encode(
                    to,
                    f.num("job_id"),
                    f.num("request_id"),
                    f.i("first_block"),
                    f.ints("block_ids"),
                    f.longs("generations"),
                    f.i("group")),
            PlanSaveRecord::new,
            view -> {
              PlanSaveRecord v = (PlanSaveRecord) view;
              int[] ids = new int[v.count()];
              long[] generations = new long[v.count()];
              for (int i = 0; i < ids.length; i++) {
                ids[i] = v.blockId(i);
                generations[i] = v.generation(i);
              }
              return new Fields()
                  .with("job_id", v.jobId())
                  .with("request_id", v.requestId())
                  .with("first_block", v.firstBlock())
                  .with("block_ids", ids)
                  .with("generations", generations)
                  .with("group", (long) v.group());
            }));
    add(
        RecordCase.of(
            "EndRequest",
            r -> new Fields().with("request_id", RecordCase.u64(r)),
            (to, f) -> EndRequestRecord.encode(to, f.num("request_id")),
            EndRequestRecord::new,
            v -> new Fields().with("request_id", ((EndRequestRecord) v).requestId())));
    add(
        RecordCase.of(
            "Reset",
            r -> new Fields().with("query_id", RecordCase.u64(r)),
            (to, f) -> ResetRecord.encode(to, f.num("query_id")),
            ResetRecord::new,
            v -> new Fields().with("query_id", ((ResetRecord) v).queryId())));
    add(
        RecordCase.of(
            "NoticesTaken",
            r -> new Fields().with("taken", RecordCase.u64(r)).with("flags", RecordCase.u32(r)),
            (to, f) -> NoticesTakenRecord.encode(to, f.num("taken"), f.i("flags")),
            NoticesTakenRecord::new,
            view -> {
              NoticesTakenRecord v = (NoticesTakenRecord) view;
              return new Fields().with("taken", v.taken()).with("flags", v.flags());
            }));
    add(
        RecordCase.of(
            "Echo",
            r ->
                new Fields()
                    .with("query_id", RecordCase.u64(r))
                    .with("payload", RecordCase.bytes(r, count(r, 10_000))),
            (to, f) -> EchoRecord.encode(to, f.num("query_id"), f.bytes("payload")),
            EchoRecord::question,
            RecordCases::readEcho));
    add(
        RecordCase.of(
            "EchoAnswer",
            r ->
                new Fields()
                    .with("query_id", RecordCase.u64(r))
                    .with("payload", RecordCase.bytes(r, count(r, 10_000))),
            (to, f) -> {
              EchoRecord question = EchoRecord.question();
              byte[] bytes = ALL.get("Echo").encode(f);
              try {
                question.wrap(java.lang.foreign.MemorySegment.ofArray(bytes), bytes.length);
              } catch (ProtocolException e) {
                throw new AssertionError(e);
              }
              return EchoRecord.encodeAnswer(to, question);
            },
            EchoRecord::answer,
            RecordCases::readEcho));
    add(
        RecordCase.of(
            "Go",
            r ->
                new Fields()
                    .with("job_id", RecordCase.u64(r))
                    .with("fence_sequence", RecordCase.u64(r))
                    .with("fence_index", RecordCase.u32(r))
                    .with("revoke_index", RecordCase.u32(r))
                    .with("deadline_ms", RecordCase.u32(r))
                    .with("kind", 1L + r.nextInt(2))
                    .with("fence_kind", (long) r.nextInt(2)),
            (to, f) ->
                GoRecord.encode(
                    to,
                    f.num("job_id"),
                    f.num("fence_sequence"),
                    f.i("fence_index"),
                    f.i("revoke_index"),
                    f.i("deadline_ms"),
                    f.i("kind"),
                    f.i("fence_kind")),
            GoRecord::new,
            view -> {
              GoRecord v = (GoRecord) view;
              return new Fields()
                  .with("job_id", v.jobId())
                  .with("fence_sequence", v.fenceSequence())
                  .with("fence_index", v.fenceIndex())
                  .with("revoke_index", v.revokeIndex())
                  .with("deadline_ms", v.deadlineMillis())
                  .with("kind", (long) v.kind())
                  .with("fence_kind", (long) v.fenceKind());
            }));
    add(
        RecordCase.of(
            "Revoke",
            r -> new Fields().with("job_id", RecordCase.u64(r)),
            (to, f) -> RevokeRecord.encode(to, f.num("job_id")),
            RevokeRecord::new,
            v -> new Fields().with("job_id", ((RevokeRecord) v).jobId())));
    add(
        RecordCase.of(
            "LookupAnswer",
            r ->
                new Fields()
                    .with("query_id", RecordCase.u64(r))
                    .with("request_id", RecordCase.u64(r))
                    .with("lease_id", RecordCase.u64(r))
                    .with("generation", RecordCase.u32(r))
                    .with("servable", RecordCase.u32(r))
                    .with("resident", RecordCase.u32(r))
                    .with("host", RecordCase.u32(r))
                    .with("ssd", RecordCase.u32(r))
                    .with("remote", RecordCase.u32(r))
                    .with("status", RecordCase.u16(r))
                    .with("group", RecordCase.u16(r)),
            (to, f) ->
                LookupAnswerRecord.encode(
                    to,
                    f.num("query_id"),
                    f.num("request_id"),
                    f.num("lease_id"),
                    f.i("generation"),
                    f.i("servable"),
                    f.i("resident"),
                    f.i("host"),
                    f.i("ssd"),
                    f.i("remote"),
                    f.i("status"),
                    f.i("group")),
            LookupAnswerRecord::new,
            view -> {
              LookupAnswerRecord v = (LookupAnswerRecord) view;
              return new Fields()
                  .with("query_id", v.queryId())
                  .with("request_id", v.requestId())
                  .with("lease_id", v.leaseId())
                  .with("generation", v.generation())
                  .with("servable", v.servable())
                  .with("resident", v.resident())
                  .with("host", v.host())
                  .with("ssd", v.ssd())
                  .with("remote", v.remote())
                  .with("status", (long) v.status())
                  .with("group", (long) v.group());
            }));
    add(
        RecordCase.of(
            "ResetAnswer",
            r ->
                new Fields()
                    .with("query_id", RecordCase.u64(r))
                    .with("generation", RecordCase.u32(r))
                    .with("status", RecordCase.u16(r)),
            (to, f) ->
                ResetAnswerRecord.encode(to, f.num("query_id"), f.i("generation"), f.i("status")),
            ResetAnswerRecord::new,
            view -> {
              ResetAnswerRecord v = (ResetAnswerRecord) view;
              return new Fields()
                  .with("query_id", v.queryId())
                  .with("generation", v.generation())
                  .with("status", (long) v.status());
            }));
    add(
        RecordCase.of(
            "SaveDone",
            r ->
                new Fields()
                    .with("job_id", RecordCase.u64(r))
                    .with("committed", RecordCase.u32(r))
                    .with("skipped", RecordCase.u32(r))
                    .with("dropped", RecordCase.u32(r))
                    .with("status", RecordCase.u32(r)),
            (to, f) ->
                SaveDoneRecord.encode(
                    to,
                    f.num("job_id"),
                    f.i("committed"),
                    f.i("skipped"),
                    f.i("dropped"),
                    f.i("status")),
            SaveDoneRecord::new,
            view -> {
              SaveDoneRecord v = (SaveDoneRecord) view;
              return new Fields()
                  .with("job_id", v.jobId())
                  .with("committed", v.committed())
                  .with("skipped", v.skipped())
                  .with("dropped", v.dropped())
                  .with("status", v.status());
            }));
    add(
        RecordCase.of(
            "KvNotice",
            r -> {
              int width = width(r);
              return new Fields()
                  .with("kind", RecordCase.u16(r))
                  .with("tier", RecordCase.u16(r))
                  .with("group", RecordCase.u16(r))
                  .with("hash_bytes", (long) width)
                  .with("hashes", RecordCase.bytes(r, width * count(r, 2000)))
                  .with("parent", RecordCase.bytes(r, r.nextBoolean() ? width : 0))
                  .with("tokens", RecordCase.bytes(r, 4 * r.nextInt(50)))
                  .with("extra_keys", RecordCase.bytes(r, r.nextInt(30)));
            },
            (to, f) ->
                KvNoticeRecord.encode(
                    to,
                    f.i("kind"),
                    f.i("tier"),
                    f.i("group"),
                    f.i("hash_bytes"),
                    ByteBuffer.wrap(f.bytes("hashes")),
                    ByteBuffer.wrap(f.bytes("parent")),
                    ByteBuffer.wrap(f.bytes("tokens")),
                    ByteBuffer.wrap(f.bytes("extra_keys"))),
            KvNoticeRecord::new,
            view -> {
              KvNoticeRecord v = (KvNoticeRecord) view;
              long bytes = (long) v.count() * v.hashBytes();
              return new Fields()
                  .with("kind", (long) v.kind())
                  .with("tier", (long) v.tier())
                  .with("group", (long) v.group())
                  .with("hash_bytes", (long) v.hashBytes())
                  .with("hashes", RecordCase.bytesOf(v, v.hashesOffset(), bytes))
                  .with("parent", RecordCase.bytesOf(v, v.parentOffset(), v.parentBytes()))
                  .with("tokens", RecordCase.bytesOf(v, v.tokensOffset(), 4L * v.tokensCount()))
                  .with("extra_keys", RecordCase.bytesOf(v, v.extraOffset(), v.extraBytes()));
            }));
    add(
        RecordCase.of(
            "JobDone",
            r ->
                new Fields()
                    .with("job_id", RecordCase.u64(r))
                    .with("boot_epoch", RecordCase.u64(r))
                    .with("bytes_moved", RecordCase.u64(r))
                    .with("blocks_ok", RecordCase.u32(r))
                    .with("micros", RecordCase.u32(r))
                    .with("kind", RecordCase.u16(r))
                    .with("status", RecordCase.u16(r)),
            (to, f) ->
                JobDoneRecord.encode(
                    to,
                    f.num("job_id"),
                    f.num("boot_epoch"),
                    f.num("bytes_moved"),
                    f.i("blocks_ok"),
                    f.i("micros"),
                    f.i("kind"),
                    f.i("status")),
            JobDoneRecord::new,
            view -> {
              JobDoneRecord v = (JobDoneRecord) view;
              return new Fields()
                  .with("job_id", v.jobId())
                  .with("boot_epoch", v.bootEpoch())
                  .with("bytes_moved", v.bytesMoved())
                  .with("blocks_ok", v.blocksOk())
                  .with("micros", v.micros())
                  .with("kind", (long) v.kind())
                  .with("status", (long) v.status());
            }));
  }

  private static Fields readEcho(RecordView view) {
    EchoRecord v = (EchoRecord) view;
    return new Fields()
        .with("query_id", v.queryId())
        .with("payload", RecordCase.bytesOf(v, v.payloadOffset(), v.payloadBytes()));
  }
}

package io.flexkv.session;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** The sessions and instances that are here. Cache thread only. */
final class Directory {
  private final Map<Integer, Session> byId = new HashMap<>();
  private final Map<String, Instance> instances = new HashMap<>();
  private final List<Session> list = new ArrayList<>();
  private int lastInstanceId;

  /** The sessions, for loops that must not allocate. */
  List<Session> sessions() {
    return list;
  }

  Collection<Instance> instances() {
    return instances.values();
  }

  @Nullable Session session(long id) {
    return id > 0 && id <= Integer.MAX_VALUE ? byId.get((int) id) : null;
  }

  void add(Session session) {
    byId.put(session.id, session);
    list.add(session);
    if (!session.hello.isScheduler() && !session.hello.isWorker()) {
      return;
    }
    Instance instance =
        instances.computeIfAbsent(
            session.hello.instance(), name -> new Instance(++lastInstanceId, name));
    session.instance = instance;
    if (session.hello.isScheduler()) {
      instance.scheduler = session;
    } else {
      instance.workers[session.hello.rank()] = session;
    }
  }

  /** Takes a session out; its instance goes with its last session. */
  void remove(Session session) {
    byId.remove(session.id);
    list.remove(session);
    Instance instance = session.instance;
    if (instance == null) {
      return;
    }
    if (instance.scheduler == session) {
      instance.scheduler = null;
    } else if (instance.workers[session.hello.rank()] == session) {
      instance.workers[session.hello.rank()] = null;
    }
    if (instance.isEmpty()) {
      instances.remove(instance.name, instance);
    }
  }
}

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Instant;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams, exactly_once_v2: the days of a customer as packed bytes in a RocksDB store with a
 * changelog and a cache. `java Peer PLACE.json`; `setting` holds properties of Kafka Streams.
 */
public final class Peer {
    private static final String STORE = "customers";
    private static final long DAY_MS = 86_400_000L;
    private static final ObjectMapper JSON = new ObjectMapper();

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Bought(double total) {}

    @JsonIgnoreProperties(ignoreUnknown = true)
    record Call(String event, String messageId, String userId, String timestamp, Bought properties) {}

    record Change(
            String customer, @JsonProperty("from") Integer left, @JsonProperty("to") int entered, String at,
            String event) {}

    /** What is done with each call. One per partition, so `now` is the partition's stream time. */
    static final class Segmenter implements Processor<String, byte[], String, byte[]> {
        // A customer: segment (int, 0 = none), time of the last order (long), then per day
        // its number (int), orders (int), cents (long), views (int), adds (int).
        private static final int HEAD = 12;
        private static final int ENTRY = 24;
        private static final byte[] NOBODY = new byte[HEAD];

        private final ObjectReader reader = JSON.readerFor(Call.class);
        private final ObjectWriter writer = JSON.writerFor(Change.class);
        private final int days;
        private final double[] missing;
        private final double[] mean;
        private final double[] scale;
        private final double[][] centroids;
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, byte[]> store;
        private long now = 0;

        Segmenter(JsonNode job) {
            JsonNode axes = job.get("axes");
            days = job.get("days").asInt();
            missing = new double[axes.size()];
            mean = new double[axes.size()];
            scale = new double[axes.size()];
            for (int i = 0; i < axes.size(); i++) {
                missing[i] = axes.get(i).get("missing").asDouble();
                mean[i] = axes.get(i).get("mean").asDouble();
                scale[i] = axes.get(i).get("scale").asDouble();
            }
            centroids = JSON.convertValue(job.get("centroids"), double[][].class);
        }

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            try {
                take(record, reader.readValue(record.value()));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private void take(Record<String, byte[]> record, Call call) throws IOException {
            long time = Instant.parse(call.timestamp()).toEpochMilli();
            now = Math.max(now, time);
            int day = (int) (time / DAY_MS);
            int since = (int) (now / DAY_MS) - days;
            if (day <= since) {
                return;
            }
            int what = switch (call.event()) {
                case "Order Completed" -> 0;
                case "Product Viewed" -> 1;
                case "Product Added" -> 2;
                default -> -1;
            };
            byte[] before = store.get(call.userId());
            ByteBuffer in = ByteBuffer.wrap(before == null ? NOBODY : before);
            ByteBuffer out = ByteBuffer.allocate(in.capacity() + ENTRY);
            int segment = in.getInt();
            long ordered = in.getLong();
            if (what == 0) {
                ordered = Math.max(ordered, time);
            }
            out.position(HEAD);
            int orders = 0;
            int views = 0;
            int adds = 0;
            long cents = 0;
            boolean there = what < 0;
            while (in.hasRemaining() || !there) {
                boolean fresh = !in.hasRemaining();
                int number = fresh ? day : in.getInt();
                int o = fresh ? 0 : in.getInt();
                long c = fresh ? 0 : in.getLong();
                int v = fresh ? 0 : in.getInt();
                int a = fresh ? 0 : in.getInt();
                if (number <= since) {
                    continue;
                }
                if (number == day && what >= 0) {
                    there = true;
                    o += what == 0 ? 1 : 0;
                    c += what == 0 ? Math.round(call.properties().total() * 100) : 0;
                    v += what == 1 ? 1 : 0;
                    a += what == 2 ? 1 : 0;
                }
                out.putInt(number).putInt(o).putLong(c).putInt(v).putInt(a);
                orders += o;
                cents += c;
                views += v;
                adds += a;
            }
            double recency = ordered == 0 ? Double.NaN : (now - ordered) / (double) DAY_MS;
            double spend = cents / 100.0;
            int nearest = nearest(recency, orders, spend, views, adds, spend / orders);
            byte[] after = new byte[out.position()];
            out.putInt(0, nearest).putLong(4, ordered).flip().get(after);
            store.put(call.userId(), after);
            if (nearest != segment) {
                Change change = new Change(
                        call.userId(), segment == 0 ? null : segment, nearest,
                        Instant.ofEpochMilli(now).toString(), call.messageId());
                context.forward(record.withKey(call.userId()).withValue(writer.writeValueAsBytes(change)));
            }
        }

        /** Segment of the nearest centroid; NaN is a missing value (0 / 0 is one, too). */
        private int nearest(double... raw) {
            double[] z = new double[raw.length];
            for (int i = 0; i < raw.length; i++) {
                z[i] = (Math.log1p(Double.isNaN(raw[i]) ? missing[i] : raw[i]) - mean[i]) / scale[i];
            }
            int best = 0;
            double least = Double.POSITIVE_INFINITY;
            for (int k = 0; k < centroids.length; k++) {
                double sum = 0;
                for (int i = 0; i < z.length; i++) {
                    double difference = z[i] - centroids[k][i];
                    sum += difference * difference;
                }
                if (sum < least) {
                    least = sum;
                    best = k;
                }
            }
            return best + 1;
        }
    }

    public static void main(String[] arguments) throws IOException {
        JsonNode place = JSON.readTree(new File(arguments[0]));
        JsonNode job = place.get("job");
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.ByteArray())
                        .withCachingEnabled()); // as every store of the DSL has it
        builder.stream(place.get("input").asText(), Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .process(() -> new Segmenter(job), STORE)
                .to(place.get("output").asText(), Produced.with(Serdes.String(), Serdes.ByteArray()));
        Properties properties = new Properties();
        properties.put("application.id", place.get("group").asText());
        properties.put("bootstrap.servers", place.get("bootstrap").asText());
        properties.put("state.dir", place.get("directory").asText());
        properties.put("processing.guarantee", "exactly_once_v2");
        properties.put("auto.offset.reset", "earliest");
        place.get("setting").properties().forEach(
                one -> properties.put(one.getKey(), one.getValue().asText()));
        KafkaStreams streams = new KafkaStreams(builder.build(), properties);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }
}

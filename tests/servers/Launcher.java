import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.util.List;

/** A server that speaks MongoDB's protocol on 127.0.0.1, port args[0], until its standard input ends. */
public class Launcher {
    public static void main(String[] args) throws Exception {
        H2Backend backend = H2Backend.inMemory();
        backend.version(new MongoVersion() {  // pymongo refuses the wire versions that the server has by itself
            public List<Integer> getVersionArray() { return List.of(4, 4, 0, 0); }
            public int getWireVersion() { return 9; }
        });
        MongoServer server = new MongoServer(backend);
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        System.out.println("listening");
        while (System.in.read() >= 0) {}
        System.exit(0);
    }
}

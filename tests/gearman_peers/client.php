<?php
// Submits one job with PHP's extension: HOST PORT FUNCTION, data on stdin, its answer on stdout.
[, $host, $port, $function] = $argv;
$client = new GearmanClient();
$client->addServer($host, (int) $port);
$answer = @$client->doNormal($function, stream_get_contents(STDIN));
if ($client->returnCode() !== GEARMAN_SUCCESS) {
    fwrite(STDERR, (string) $client->error());
    exit(1);
}
echo $answer;

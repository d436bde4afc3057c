<?php
// A worker by PHP's extension: HOST PORT. "upper" answers in capitals, "broken" fails.
[, $host, $port] = $argv;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction('upper', fn($job) => strtoupper($job->workload()));
$worker->addFunction('broken', function ($job) {
    $job->sendFail();
});
while ($worker->work());

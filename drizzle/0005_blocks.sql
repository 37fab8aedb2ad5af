CREATE TABLE `arrivals` (
	`first_id` integer PRIMARY KEY NOT NULL,
	`count` integer NOT NULL,
	`data` blob NOT NULL
);
--> statement-breakpoint
CREATE TABLE `blocks` (
	`pk` integer PRIMARY KEY NOT NULL,
	`sensor_pk` integer NOT NULL,
	`start_at` integer NOT NULL,
	`start_id` integer NOT NULL,
	`end_at` integer NOT NULL,
	`count` integer NOT NULL,
	`min_id` integer NOT NULL,
	`max_id` integer NOT NULL,
	`data` blob NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `blocks_sensor_time` ON `blocks` (`sensor_pk`,`start_at`,`start_id`);--> statement-breakpoint
CREATE INDEX `blocks_ids` ON `blocks` (`max_id`,`min_id`);--> statement-breakpoint
CREATE TABLE `sealed` (
	`sensor_pk` integer PRIMARY KEY NOT NULL,
	`up_to_id` integer NOT NULL
);
